"""A cell trained again from its start up to some epoch: do its states and curves come out as they were recorded?

A late epoch needs all before it: no state is kept once a cell is done, for it would be several times its student.
"""

from dataclasses import dataclass

from kdbench.grid.begin import giver_of, student_of
from kdbench.grid.cohort import Worker
from kdbench.results.schema import DIGESTS, Record
from kdbench.suite.cells import Cell
from kdbench.train.digests import digest_of
from kdbench.train.lent import Guard
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.start import start_trial
from kdbench.train.teacher import Teacher
from kdbench.train.trial import Trial


@dataclass(frozen=True)
class Replay:
    """Of one cell. `wrong`: what differed, in words; what comes after the first difference must differ too."""

    epochs: int
    wrong: list[str]


def states_of(record: Record) -> list[str]:
    """The digests of the member's states that a record keeps; the first one is that before the first step."""
    return list((record.get(DIGESTS) or {}).get("states") or [])


def replay(cell: Cell, record: Record, epochs: int, worker: Worker) -> Replay:
    """Train `cell` up to the end of epoch `epochs` and compare with `record`, which has digests.

    Its teacher is taken from the results; where it is not there it is trained. Raises what training it raises.
    """
    splits = worker.splits(cell)
    with Guard():
        teacher = worker.obtain(cell, splits)
    if wrong := _another_teacher(teacher, record):
        return Replay(0, wrong)
    giver = giver_of(cell, teacher, lambda other: worker.obtain(other, splits))
    net = student_of(cell, splits, worker.place.results, worker.device, giver)
    trial = start_trial(cell, net, splits, teacher.net, worker.device, None, worker.stop_if_asked)
    worker.events.now(f"training {cell.title} up to epoch {epochs}")
    hooks = Hooks(stop=lambda: trial.evaluated >= epochs or worker.stop())
    cohort = Cohort(teacher.net, splits, cell.train.batches, cell.seed, hooks, judged=teacher.judged)
    cohort.at_end = cell.at_end
    train_cohort(cohort, [trial])
    worker.stop_if_asked()
    return Replay(epochs, _differences(trial, record, epochs))


def _another_teacher(teacher: Teacher, record: Record) -> list[str]:
    claimed = (record.get(DIGESTS) or {}).get("teacher")
    same = claimed is None or digest_of(teacher.net.model.state_dict()) == claimed
    return (
        [] if same else [f"it learnt from another teacher than {teacher.key}: that one's weights have another digest"]
    )


def _differences(trial: Trial, record: Record, epochs: int) -> list[str]:
    """The first epoch that differs, and how."""
    if trial.status == "failed":
        return [f"trained again it fails: {trial.reason}"]
    states = states_of(record)
    for epoch in range(epochs + 1):
        if states[epoch : epoch + 1] != trial.digests[epoch : epoch + 1]:
            when = f"after epoch {epoch}" if epoch else "before the first step"
            return [f"trained again its state {when} has another digest"]
        if epoch and (wrong := _other_values(trial.curves, record.get("curves") or {}, epoch - 1)):
            return [f"epoch {epoch}: {wrong}"]
    return []


def _other_values(found: dict[str, list[float]], said: dict[str, list[float]], place: int) -> str:
    """What of the curves differs at one place; empty when nothing does."""
    for name, curve in found.items():
        recorded = said.get(name, [])[place : place + 1]
        if recorded != curve[place : place + 1]:
            return f"{name} is recorded as {[*recorded]}, trained again it is {curve[place : place + 1]}"
    return ""

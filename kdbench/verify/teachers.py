"""Teachers that lie in the results evaluated again: do they give the scores that they and their cells' records claim?

How they were trained is not looked at: no teacher's training is replayed, and the verdict says so.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdbench.data import Splits
from kdbench.errors import UserError, first_line
from kdbench.files import CannotWrite
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.train.evaluation import evaluate_one
from kdbench.train.loop import Stopped
from kdbench.train.teacher import Teacher, kept_teacher
from kdbench.verify.judge import Judge, threads_of
from kdbench.verify.verdict import Finding
from kdbench.verify.weights import LOSS, LOSSES, POINTS

NEVER = "no teacher's training is replayed: how they learnt is only claimed"


@dataclass
class Teachers:
    """What was found of all. `open`: why one was not evaluated, each as often as that was so."""

    held: int = 0
    wrong: list[str] = field(default_factory=list)
    open: Counter[str] = field(default_factory=Counter)

    @property
    def said(self) -> str:
        left = "".join(f"; {count} not evaluated: {why}" for why, count in self.open.items())
        return f"teachers: {self.held} evaluated again give what is claimed{left}; {NEVER}"


def judge_teachers(judge: Judge, findings: Sequence[Finding]) -> Teachers:
    """Every teacher of the cells in `findings` once. Raises Stopped and CannotWrite."""
    found, records = Teachers(), dict[str, list[Record]]()
    for finding in findings:
        if (key := finding.record.get("teacher_key")) is not None:
            records.setdefault(str(key), []).append(finding.record)
    for key, own in records.items():
        try:
            if wrong := list(_wrong(judge, key, own)):
                found.wrong += [f"teacher {key}: {line}" for line in wrong]
            else:
                found.held += 1
        except (Stopped, CannotWrite):
            raise
        except UserError as error:
            found.open[str(error)] += 1
        except Exception as error:
            found.open[f"it can't be evaluated: {first_line(error)}"] += 1
    return found


def _wrong(judge: Judge, key: str, records: Sequence[Record]) -> Iterator[str]:
    """What one scores otherwise than claimed. Raises UserError where it can't be evaluated."""
    cell = next((judge.cells[r["key"]] for r in records if r["key"] in judge.cells), None)
    if cell is None or cell.teacher_key != key:
        raise UserError("that builds nets as the suite says, and it was not read or is another one now")
    if judge.left() <= 0:
        raise UserError("the time is spent")
    if key not in judge.teachers:
        raise UserError("it was not in the results")
    if not judge.has_data(records[0]):
        raise UserError("its data are not there, or others")
    splits = judge.worker.splits(cell)
    teacher = kept_teacher(cell, splits, judge.worker.place.results, judge.worker.device)
    if teacher is None:
        raise UserError("it is not in the results, or damaged")
    for record in records:
        said = record["scores"].get(f"teacher_{splits.metric}")
        if said not in (None, teacher.scores[splits.metric]):
            yield f"{record['label']}, seed {record['seed']}: says that it scores {said}, its own file says otherwise"
    yield from _scores(judge, cell, records[0], teacher, splits)


def _scores(judge: Judge, cell: Cell, record: Record, teacher: Teacher, splits: Splits) -> Iterator[str]:
    judge.worker.events.now(f"evaluating teacher {cell.teacher.short}")
    with threads_of(record):
        precision = cell.teacher_train.precision
        scores = evaluate_one(teacher.judged, splits.test, precision, metric=splits.judged_by).scores
    exact, share = not judge.differs(record), max(POINTS, 200 / len(splits.test))
    for name, value in scores.items():
        said = teacher.scores.get(name)
        within = 0.0 if exact else LOSS if name in LOSSES else share
        if said is None or not abs(said - value) <= within:
            yield f"{name} is claimed to be {said}, evaluated again it is {value}"

"""One cohort from its cells to their ends: data, teacher, members, training, outcome. Runs in any process.

It reads and writes the teachers, the checkpoints and the teacher's cache; what it found goes out as events.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from kdbench.data import Splits, digest_of, load_splits
from kdbench.errors import UserError, first_line
from kdbench.files import CannotWrite
from kdbench.grid.begin import giver_of, student_of
from kdbench.grid.convert import convert
from kdbench.grid.events import Events, Stop
from kdbench.grid.filed import Files
from kdbench.grid.outcome import Measure, head_of, record_of, weights_file
from kdbench.grid.saving import Pace, other_devices, state_of
from kdbench.layout import Layout
from kdbench.method.contract import Inapplicable
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.provenance import device_name
from kdbench.suite.cells import Cell, fingerprint
from kdbench.train.arithmetic import repeat_itself
from kdbench.train.group import ALONE, Group
from kdbench.train.lent import Guard, Undermined
from kdbench.train.loop import Cohort, Hooks, OutOfMemory, Stopped, train_cohort
from kdbench.train.memory import collect, free_memory, is_out_of_memory, keep_freed
from kdbench.train.one_writer import GroupCheckpoints
from kdbench.train.repeat import UNREPEATABLE
from kdbench.train.start import start_trial
from kdbench.train.teacher import Teacher, TeacherFailed, obtain
from kdbench.train.teacher_cache import DiskBudget, TeacherCache, digest
from kdbench.train.trial import Misfit, Trial

# Members join a cohort while more than this share of the memory is free: their optimizers' buffers, and one member's
# activations (members take turns, so these are needed once), come with the first step.
RESERVE = 0.25


@dataclass(frozen=True)
class Place:
    """Where a worker finds and keeps things. `teacher_cache`: GB of the teachers' outputs to keep on disk."""

    results: Path
    data: Path
    device: str
    teacher_cache: float = 0.0
    processes: int = 1  # that train on this machine at a time


@dataclass
class Worker:
    """Trains cohorts, one after another. `stop` is asked after every step; then state is saved and Stopped raised."""

    place: Place
    events: Events
    stop: Stop = lambda: False
    group: Group = ALONE
    checkpoint_every: ClassVar[float] = 60.0  # seconds of work that a kill may cost; more where saving takes long
    _splits: tuple[str, Splits] | None = field(default=None, init=False)
    stopping: bool = field(default=False, init=False)  # all of the group agreed on it

    def __post_init__(self) -> None:
        keep_freed()
        repeat_itself(torch.device(self.place.device))
        self.device = torch.device(self.place.device)
        self.measure = Measure(self.device, self.place.processes, self.group.size, Files(self.place.results))
        self.budget = DiskBudget(Layout(self.place.results).teacher_cache, self.place.teacher_cache * 1e9)

    def run(self, cells: Sequence[Cell]) -> None:
        """Train the cells of one cohort in lock-step. What does not fit into memory follows them.

        Whatever raises becomes the end of the cells that it touches. Raises Stopped, and CannotWrite.
        """
        convert(() if self.group.rank else cells, self.splits, self.measure, self.events)
        if not (cells := [cell for cell in cells if not cell.then]):
            return
        try:
            with Guard():
                splits = self.splits(cells[0])
            self.events.now(f"{cells[0].dataset.name} · teacher {cells[0].teacher.short}")
            with Guard():
                teacher = self.obtain(cells[0], splits)
        except (Stopped, CannotWrite):
            raise
        except Exception as error:
            self.group.raised(error)
            status = error.status if isinstance(error, TeacherFailed) else "failed"
            self.end(cells, status, error)
            return
        members, later = self.members(cells, splits, teacher)
        again = self.train(members, teacher, splits)
        members.clear()
        if again:
            collect(self.device)
        for part in [*again, later]:
            self.run(part)

    def obtain(self, cell: Cell, splits: Splits) -> Teacher:
        """The teacher of `cell`, trained now where it does not lie in the results."""
        return obtain(cell, splits, self.place.results, self.device, self.teacher_hooks, self.waiting, self.group)

    def members(
        self, cells: Sequence[Cell], splits: Splits, teacher: Teacher
    ) -> tuple[list[tuple[Cell, Trial]], Sequence[Cell]]:
        """Cells with their trials, as many as there is memory for; and the cells for which there is none yet."""
        members: list[tuple[Cell, Trial]] = []
        for number, cell in enumerate(cells):
            if members and self.group.agree(free_memory(self.device) < RESERVE):
                self.events.say(f"memory is short: {len(members)} of {len(cells)} members train first")
                return members, cells[number:]
            try:
                with Guard():
                    members.append((cell, self.trial(cell, splits, teacher)))
            except (Stopped, CannotWrite):
                raise
            except Inapplicable as reason:
                self.events.finished(record_of(cell, self.device, "skipped", str(reason)), None)
            except Exception as error:
                self.group.raised(error)
                if members and is_out_of_memory(error):
                    return members, cells[number:]
                self.end([cell], "failed", error, teacher)
        return members, []

    def train(
        self, members: Sequence[tuple[Cell, Trial]], teacher: Teacher, splits: Splits
    ) -> Sequence[Sequence[Cell]]:
        """Train the members and tell their ends; gives the groups of them that are to run again. Raises Stopped."""
        if not members:
            return []
        first = members[0][0]
        shared = (teacher.net, splits, first.train.batches, first.seed)
        cohort = Cohort(*shared, self.hooks(members), self.cache(first, teacher), self.group, teacher.judged)
        cohort.at_end, cohort.neighbours = first.at_end, first.evaluate.neighbours
        try:
            if not train_cohort(cohort, [trial for _, trial in members]):
                raise Stopped
        except OutOfMemory:
            return self.halves([cell for cell, _ in members])
        except Undermined as error:
            return [self.without(error.offender, members, teacher)]
        except (Stopped, CannotWrite):
            raise
        except Exception as error:
            self.group.raised(error)
            self.end([cell for cell, _ in members], "failed", error, teacher)
            return []
        if any(trial.repeatable is False for _, trial in members):
            self.events.say(f"{first.pair}, seed {first.seed}: {UNREPEATABLE}")
        if self.group.rank:
            return []
        self.events.now(f"measuring {first.pair}")
        judged = self.measure.judged([trial for _, trial in members if trial.status == "done"], cohort)
        for cell, trial in members:
            try:
                with Guard():
                    details = self.measure.details(cell, trial, teacher, cohort, len(members), judged.get(cell.key))
                    record = record_of(cell, self.device, trial.status, trial.reason, teacher, **details)
                    weights = weights_file(cell, trial) if trial.status == "done" else None
            except Exception as error:
                self.end([cell], "failed", error, teacher)
            else:
                self.events.finished(record, weights)
        return []

    def halves(self, cells: Sequence[Cell]) -> Sequence[Sequence[Cell]]:
        """What does not fit into memory at once."""
        self.events.say(f"out of memory with {len(cells)} members: the cohort goes on in two halves")
        return [cells[: len(cells) // 2], cells[len(cells) // 2 :]]

    def without(self, offender: str, members: Sequence[tuple[Cell, Trial]], teacher: Teacher) -> Sequence[Cell]:
        """Record the offender; the others lose what they have learnt, since nobody knows what of it is sound."""
        others = []
        for cell, trial in members:
            if cell.key == offender:
                self.events.finished(record_of(cell, self.device, trial.status, trial.reason, teacher), None)
                self.events.say(f"{cell.label} wrote into what all share: the others start again")
            else:
                self.checkpoints(cell).remove(cell.key)
                others.append(cell)
        return others

    def end(self, cells: Sequence[Cell], status: str, error: Exception, teacher: Teacher | None = None) -> None:
        """The cells can't be trained: the error is their reason."""
        reason = str(error) if isinstance(error, TeacherFailed) else first_line(error)
        for cell in cells:
            self.events.finished(record_of(cell, self.device, status, reason, teacher), None)

    def trial(self, cell: Cell, splits: Splits, teacher: Teacher) -> Trial:
        """A student with its objective, at the start or where its checkpoint left it. Raises Inapplicable."""
        self.events.now(f"preparing {cell.label}")
        giver = giver_of(cell, teacher, lambda other: self.obtain(other, splits))
        net = student_of(cell, splits, self.place.results, self.device, giver)
        checkpoints = self.checkpoints(cell)
        state = checkpoints.load(cell.key)
        try:
            trial = start_trial(cell, net, splits, teacher.net, self.device, state, self.stop_if_agreed, self.group)
        except Misfit:
            self.events.say(f"{cell.title}: its checkpoint is of another version; it starts again")
            checkpoints.remove(cell.key)
            return self.trial(cell, splits, teacher)
        self.events.passed(trial.done, cell.cohort)
        for line in other_devices(cell.title, trial):
            self.events.say(line)
        if trial.seconds["prepare"] and not trial.done:  # it may have taken an hour
            checkpoints.save(cell.key, trial.state())
        return trial

    def hooks(self, members: Sequence[tuple[Cell, Trial]]) -> Hooks:
        """What the loop is to tell and to ask while students train."""
        cells, first = {cell.key: cell for cell, _ in members}, members[0][0]
        what = f"{first.dataset.name} · {first.pair} · {len(members)} objectives · seed {first.seed}"
        self.events.now(what)

        def epoch(trial: Trial) -> None:
            if trial.status == "running":
                values = {name: curve[-1] for name, curve in trial.curves.items()}
                self.events.epoch(head_of(cells[trial.key]), values, trial.evaluated)
            self.events.now(f"{what} · epoch {trial.evaluated}/{first.train.epochs}")

        def step(members: int) -> None:
            self.events.advance(members, first.train.batch_size, first.cohort)

        return Hooks(step, epoch, self.saver(self.checkpoints(first)), self.agreed)

    def teacher_hooks(self, cell: Cell, begun: Trial, checkpoints: Checkpoints) -> Hooks:
        """The same for a teacher's own training."""
        what = f"{cell.dataset.name} · training teacher {cell.teacher.short}"
        self.events.now(what)
        self.events.passed(begun.done, cell.teacher_key)
        for line in other_devices(f"{cell.dataset.name} · teacher {cell.teacher.short}", begun):
            self.events.say(line)

        def epoch(trial: Trial) -> None:
            self.events.now(f"{what} · epoch {trial.evaluated}/{cell.teacher_train.epochs}")

        def step(members: int) -> None:
            self.events.advance(members, cell.teacher_train.batch_size, cell.teacher_key)

        return Hooks(step, epoch, self.saver(checkpoints), self.agreed)

    def saver(self, checkpoints: Checkpoints) -> Callable[[Sequence[Trial]], None]:
        """Saves the state of the members that run, when it is time or the run is to stop."""
        pace = Pace(self.checkpoint_every)

        def save(members: Sequence[Trial]) -> None:
            if members and self.group.rank == 0 and (pace.due() or self.stopping or self.stop()):
                for trial in members:
                    if trial.status == "running" and (state := state_of(trial, self.group)) is not None:
                        checkpoints.save(trial.key, state)
                pace.saved()

        return save

    def waiting(self, owner: str) -> None:
        """Another process has what this one needs next."""
        self.events.now(f"waiting for {owner}")
        self.stop_if_asked()

    def agreed(self) -> bool:
        """Is the run to stop? Asked by all of a group at the same place."""
        self.stopping = self.group.agree(self.stop())
        return self.stopping

    def stop_if_agreed(self) -> None:
        if self.agreed():
            raise Stopped

    def stop_if_asked(self) -> None:
        if self.stop():
            raise Stopped

    def splits(self, cell: Cell) -> Splits:
        """The cell's data on the device; the last data set is kept."""
        name = f"{cell.dataset.model_dump_json()} {cell.validation}"
        if self._splits is None or self._splits[0] != name:
            self._splits = None
            self.events.now(f"reading {cell.dataset.name}")
            splits = load_splits(cell.dataset.name, cell.dataset.settings, self.place.data, cell.validation)
            if digest_of(cell.dataset.name, cell.dataset.settings, self.place.data) != cell.data:
                raise UserError(f"data set {cell.dataset.name}: its data changed since this run began; start it again")
            self._splits = name, splits.to(self.device)
        return self._splits[1]

    def cache(self, cell: Cell, teacher: Teacher) -> TeacherCache | None:
        """The teacher's outputs for this cohort's batches, on a machine like this one."""
        if not self.place.teacher_cache or self.group.size > 1:
            return None
        batches = cell.train.batches.model_dump(mode="json", exclude={"epochs"}, exclude_none=True)
        where = {"torch": torch.__version__, "device": device_name(self.device), "threads": torch.get_num_threads()}
        about = {"teacher": teacher.key, "weights": digest(teacher.net.model.state_dict()), "seed": cell.seed}
        return TeacherCache(self.budget.folder / fingerprint({**about, **batches, **where}), self.device, self.budget)

    def checkpoints(self, cell: Cell) -> GroupCheckpoints:
        return GroupCheckpoints(Layout(self.place.results).suite(cell.suite).checkpoints, self.group)

"""Where cohorts run. Here: one after another in this process; several processes may share a results folder.

A cohort is worked on under a lock, and a cell is done when its record exists: whatever dies, the next run goes on.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from kdbench.grid.plan import Plan
from kdbench.grid.progress import Bar
from kdbench.grid.recorder import Ledger
from kdbench.layout import Layout
from kdbench.locks import attempt, owner_of
from kdbench.method.contract import Inapplicable
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.mlflow_thread import Tracker
from kdbench.results.provenance import device_name
from kdbench.results.records import Records, is_final
from kdbench.suite.cells import Cell, fingerprint
from kdbench.train.loop import Hooks, OutOfMemory, is_out_of_memory, train_cohort
from kdbench.train.memory import free_memory, keep_freed
from kdbench.train.teacher import Stopped, Teacher, TeacherFailed, obtain
from kdbench.train.teacher_cache import Answers, Room, digest
from kdbench.train.trial import Misfit, Trial, start_trial
from kdbench.vision.batches import Splits, load_splits
from kdbench.vision.nets import build_net

# Members join a cohort while more than this share of the memory is free: their optimizers' buffers, and one member's
# activations (members take turns, so these are needed once), come with the first step.
RESERVE = 0.25


class Pace:
    """When state is to be saved: every so many seconds, and so rarely that saving takes 2% of the time at most."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.start = self.asked = time.monotonic()

    def due(self) -> bool:
        self.asked = time.monotonic()
        return self.asked >= self.start + self.every

    def saved(self) -> None:
        """Call it after what `due` asked for was done."""
        took = time.monotonic() - self.asked
        self.start = time.monotonic() + max(0.0, 50 * took - self.every)


@dataclass
class Engine:
    """Runs the cohorts of a plan. `stop` is asked after every step; on a yes, state is saved and Stopped raised."""

    plan: Plan
    results: Path
    data_dir: Path
    device: torch.device
    tracker: Tracker
    bar: Bar
    stop: Callable[[], bool] = lambda: False
    keep_answers: float = 0.0  # GB of the teachers' answers to keep on disk
    checkpoint_every: ClassVar[float] = 60.0  # seconds of work that a kill may cost; more where saving takes long
    _splits: tuple[str, Splits] | None = None

    def __post_init__(self) -> None:
        keep_freed()
        layout = Layout(self.results)
        self.folder = layout.suite(self.plan.suite.name)
        self.records = Records(self.results, self.plan.suite.name)
        self.checkpoints = Checkpoints(self.folder.checkpoints)
        self.room = Room(layout.teacher_cache, self.keep_answers * 1e9)
        self.ledger = Ledger(self.folder, self.records, self.checkpoints, self.device, self.tracker, self.bar)

    def run(self) -> None:
        """Every cohort that no other process works on; then, patiently, what the others left."""
        for cell in self.plan.cells:
            if cell.key in self.plan.inapplicable:
                self.ledger.skip(cell, self.plan.inapplicable[cell.key])
        for key in self.checkpoints.saved():
            if is_final(self.plan.records.get(key)):  # its run died between the record and this
                self.checkpoints.remove(key)
        pending = self.plan.cohorts
        while pending:
            waiting = []
            for cohort in pending:
                with attempt(self.lock_of(cohort)) as mine:
                    if mine:
                        self.cohort([cell for cell in cohort if self.is_open(cell)])
                    else:
                        waiting.append(cohort)
            if len(waiting) == len(pending):
                self.waiting(owner_of(self.lock_of(waiting[0])))
                time.sleep(1)
            pending = waiting

    def is_open(self, cell: Cell) -> bool:
        """It is not done, nor did another process see it fail since this one began."""
        record, before = self.records.read(cell.key), self.plan.records.get(cell.key)
        if record is None or is_final(record):
            return record is None
        return before is not None and before.get("finished") == record.get("finished")

    def lock_of(self, cohort: Sequence[Cell]) -> Path:
        return self.folder.cohort_lock(cohort[0].cohort)

    def waiting(self, owner: str) -> None:
        """Another process has what this one needs next."""
        self.bar.now(f"waiting for {owner}")
        if self.stop():
            raise Stopped

    def cohort(self, cells: Sequence[Cell]) -> None:
        """Train the cells in lock-step and write a record for each. What does not fit into memory follows them."""
        if not cells:
            return
        splits = self.splits(cells[0])
        self.bar.now(f"{cells[0].dataset.name} · teacher {cells[0].teacher.short}")
        try:
            teacher = obtain(cells[0], splits, self.results, self.device, self.teacher_hooks, self.waiting)
        except TeacherFailed as failure:
            for cell in cells:
                self.ledger.write(cell, None, failure.status, str(failure))
            return
        trials, later = self.gather(cells, splits, teacher)
        ready = [cell for cell in cells if cell.key in trials]
        try:
            finished = self.train(ready, trials, teacher, splits)
        except OutOfMemory:
            trials.clear()
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            half = len(ready) // 2
            self.bar.say(f"out of memory with {len(ready)} members: the cohort goes on in two halves")
            self.cohort(ready[:half])
            self.cohort(ready[half:])
            self.cohort(later)
            return
        if not finished:
            raise Stopped
        for cell in ready:
            self.ledger.finish(cell, trials[cell.key], teacher, splits, len(ready))
        trials.clear()
        self.cohort(later)

    def gather(
        self, cells: Sequence[Cell], splits: Splits, teacher: Teacher
    ) -> tuple[dict[str, Trial], Sequence[Cell]]:
        """The members by key, as many as there is memory for; and the cells for which there is none yet."""
        trials: dict[str, Trial] = {}
        for place, cell in enumerate(cells):
            if trials and free_memory(self.device) < RESERVE:
                self.bar.say(f"memory is short: {len(trials)} of {len(cells)} members train first")
                return trials, list(cells[place:])
            try:
                trials[cell.key] = self.trial(cell, splits, teacher)
            except Inapplicable as reason:
                self.ledger.skip(cell, str(reason))
            except Exception as error:
                if trials and is_out_of_memory(error):
                    return trials, list(cells[place:])
                self.ledger.write(cell, teacher, status="failed", reason=f"{type(error).__name__}: {error}")
        return trials, []

    def train(self, cells: Sequence[Cell], trials: dict[str, Trial], teacher: Teacher, splits: Splits) -> bool:
        first = cells[0] if cells else None
        if first is None:
            return True
        what = f"{first.dataset.name} · {first.pair} · {len(cells)} objectives · seed {first.seed}"
        self.bar.now(what)
        by_trial = {id(trials[cell.key]): cell for cell in cells}
        pace = Pace(self.checkpoint_every)

        def epoch(trial: Trial) -> None:
            if trial.status == "running":
                values = {name: curve[-1] for name, curve in trial.curves.items()}
                self.tracker.epoch(self.ledger.head(by_trial[id(trial)]), values, trial.evaluated)
            self.bar.now(f"{what} · epoch {trial.evaluated}/{first.train.epochs}")

        def checkpoint(members: Sequence[Trial]) -> None:
            if pace.due() or self.stop():
                for trial in members:
                    if trial.status == "running":
                        self.checkpoints.save(by_trial[id(trial)].key, trial.state())
                pace.saved()

        def step(members: int) -> None:
            self.bar.advance(members, first.train.batch_size)

        hooks = Hooks(step, epoch, checkpoint, self.stop)
        members = [trials[cell.key] for cell in cells]
        return train_cohort(members, teacher.net, splits, first.train, first.seed, hooks, self.answers(first, teacher))

    def answers(self, cell: Cell, teacher: Teacher) -> Answers | None:
        """What the teacher said before about this cohort's batches, on a machine like this one."""
        if not self.keep_answers:
            return None
        batches = {name: getattr(cell.train, name) for name in ("batch_size", "augment", "precision")}
        where = {"torch": torch.__version__, "device": device_name(self.device), "threads": torch.get_num_threads()}
        about = {"teacher": teacher.key, "weights": digest(teacher.net.model.state_dict()), "seed": cell.seed}
        return Answers(self.room.folder / fingerprint({**about, **batches, **where}), self.device, self.room)

    def teacher_hooks(self, cell: Cell, trial: Trial, checkpoints: Checkpoints) -> Hooks:
        """Hooks for a teacher's own training."""
        what = f"{cell.dataset.name} · training teacher {cell.teacher.short}"
        self.bar.now(what)
        pace = Pace(self.checkpoint_every)

        def checkpoint(members: Sequence[Trial]) -> None:
            if members and (pace.due() or self.stop()):
                checkpoints.save(cell.teacher_key, trial.state())
                pace.saved()

        def epoch(trial: Trial) -> None:
            self.bar.now(f"{what} · epoch {trial.evaluated}/{cell.teacher_train.epochs}")

        return Hooks(lambda n: self.bar.advance(n, cell.teacher_train.batch_size), epoch, checkpoint, self.stop)

    def trial(self, cell: Cell, splits: Splits, teacher: Teacher) -> Trial:
        """A student with its objective, at the start or where its checkpoint left it. Raises Inapplicable."""
        self.bar.now(f"preparing {cell.label}")
        net = build_net(cell.student, splits.num_classes, splits.input_size, "student", cell.seed)
        try:
            return start_trial(cell, net, splits, teacher.net, self.device, self.checkpoints.load(cell.key))
        except Misfit:
            self.bar.say(f"{cell.title}: its checkpoint is of another version; it starts again")
            self.checkpoints.remove(cell.key)
            return self.trial(cell, splits, teacher)

    def splits(self, cell: Cell) -> Splits:
        """The cell's data on the device; the last data set is kept."""
        name = f"{cell.dataset.model_dump_json()} {cell.validation}"
        if self._splits is None or self._splits[0] != name:
            self._splits = None
            self.bar.now(f"reading {cell.dataset.name}")
            splits = load_splits(cell.dataset.name, cell.dataset.settings, self.data_dir, cell.validation)
            self._splits = name, splits.to(self.device)
        return self._splits[1]

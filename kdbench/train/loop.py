"""The loop: a cohort trains in lock-step on one pass of the data and one forward of the teacher.

    for epoch: for batch in loader(dataset, seed, epoch):   # order and augmentation depend on (seed, epoch) only
        taught = teacher(batch, union of needs)             # once, no gradient
        for trial in cohort: trial.step(batch, taught)      # forward, objective, backward, optimizer step
    end of epoch: evaluate, log, checkpoint

Nothing a member does can reach another: each has its own weights, optimizer, random state and sums. So a member ends
with the same bits whether it trains alone or among others, and whether it was interrupted or not.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kdbench.method.contract import VIEWS, Batch, Outputs
from kdbench.suite.spec import Train
from kdbench.train.evaluation import evaluate, predictions
from kdbench.train.optim import learning_rate
from kdbench.train.teacher_cache import Answers
from kdbench.train.trial import Trial, ask
from kdbench.vision.batches import Epoch, Loader, Splits
from kdbench.vision.nets import Net


class OutOfMemory(Exception):
    """The cohort does not fit; the engine splits it."""


@dataclass
class Hooks:
    """What the engine wants to hear. Every hook is optional."""

    step: Callable[[int], None] = lambda members: None  # a lock-step was made by so many members
    epoch: Callable[[Trial], None] = lambda trial: None  # a trial finished an epoch
    checkpoint: Callable[[Sequence[Trial]], None] = lambda trials: None  # a moment at which state may be saved
    stop: Callable[[], bool] = lambda: False  # asked after every step


def train_cohort(
    trials: Sequence[Trial],
    teacher: Net | None,
    splits: Splits,
    train: Train,
    seed: int,
    hooks: Hooks | None = None,
    answers: Answers | None = None,
) -> bool:
    """Train every trial to its end (status `done`, or `diverged` or `failed` with a reason).

    `train` gives what a cohort shares: epochs, batch size, augmentation, precision; `answers`: what the teacher said
    about these batches before. Returns False when `hooks.stop` ended it early. Raises OutOfMemory when several members
    do not fit together.
    """
    hooks = hooks or Hooks()
    device = splits.train.targets.device
    loader = Loader(splits.train, train.batch_size, train.augment, seed)
    known = predictions(teacher, splits.test, train.precision) if teacher is not None else None
    running = [t for t in trials if t.status == "running"]
    for number in range(min((t.evaluated for t in running), default=0), train.epochs):
        epoch = loader.epoch(number)
        for trial in running:
            trial.objective.enter(number)
        for step in range(loader.steps):
            place = number * loader.steps + step
            members = [t for t in running if t.done == place and t.status == "running"]
            if not members:  # all are past this step: they went on from a checkpoint
                continue
            progress = place / (train.epochs * loader.steps)
            lock_step(members, teacher, epoch, step, progress, loader.steps, device, answers)
            hooks.step(len(members))
            stopping = hooks.stop()  # asked first: a signal that comes from here on ends the next step, which is saved
            hooks.checkpoint(members)
            if stopping:
                return False
        ended = [t for t in running if t.evaluated == number and t.status == "running"]
        end_epoch(ended, splits, known, train, loader.steps)
        for trial in ended:
            hooks.epoch(trial)
        running = [t for t in running if t.status == "running"]
        hooks.checkpoint([t for t in ended if t.status == "running"])
    for trial in running:
        trial.status = "done"
    return True


def lock_step(
    members: Sequence[Trial],
    teacher: Net | None,
    epoch: Epoch,
    step: int,
    progress: float,
    steps_per_epoch: int,
    device: torch.device,
    answers: Answers | None = None,
) -> None:
    """One batch for all members. One that raises leaves the cohort; the others go on."""
    clock = Clock(device)
    needs = frozenset().union(*(trial.needs | trial.objective.student_needs for trial in members))
    batch = epoch.batch(step, progress, **{view: view in needs for view in VIEWS})
    shared = {"data": clock.lap()}
    taught, saved = teach(teacher, batch, members, epoch.number, step, answers)
    shared["teacher"] = clock.lap() + saved  # what is stated as a method's cost does not depend on what lies on disk
    if answers is not None and not saved:
        answers.hear(step, steps_per_epoch, taught, shared["teacher"])
    for trial in members:
        spec = trial.train_spec
        lr = learning_rate(spec, trial.done, steps_per_epoch)
        try:
            trial.step(batch, taught, lr)
        except Exception as error:
            if is_out_of_memory(error) and len(members) > 1:
                raise OutOfMemory from error
            trial.status, trial.reason = "failed", f"{type(error).__name__}: {error}"
        for name, seconds in {**shared, "step": clock.lap()}.items():
            trial.seconds[name] += seconds if name != "teacher" or trial.needs else 0.0


def teach(
    teacher: Net | None, batch: Batch, members: Sequence[Trial], epoch: int, step: int, answers: Answers | None
) -> tuple[Outputs, float]:
    """The teacher's outputs for the union of the members' needs, and the seconds saved where they were known.

    An empty answer when nobody asks.
    """
    needs = frozenset().union(*(trial.needs for trial in members))
    if teacher is None or not needs:
        return Outputs(logits=batch.images.new_zeros(len(batch.target), 0)), 0.0
    compute = partial(ask, teacher, batch, needs, members[0].train_spec.precision)
    return (compute(), 0.0) if answers is None else answers.of(epoch, step, needs, compute)


def end_epoch(trials: Sequence[Trial], splits: Splits, known: Tensor | None, train: Train, num_steps: int) -> None:
    """Evaluate all members in one pass per split. The test set is only looked at: nothing is decided by it."""
    if not trials:
        return
    start = time.perf_counter()
    nets = [trial.deployed for trial in trials]
    scores = {"test": evaluate(nets, splits.test, train.precision, known)}
    if splits.validation is not None:
        scores["validation"] = evaluate(nets, splits.validation, train.precision)
    seconds = (time.perf_counter() - start) / len(trials)
    for place, trial in enumerate(trials):
        trial.end_epoch(num_steps, {split: values[place] for split, values in scores.items()})
        trial.seconds["epochs"] += seconds


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


@dataclass
class Clock:
    """Seconds between laps. On a GPU it does not wait for the device: laps there are the time to issue the work."""

    device: torch.device
    at: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        before, self.at = self.at, time.perf_counter()
        return self.at - before

"""The loop: a cohort trains in lock-step on one pass of the data and one forward of the teacher.

    for epoch: for batch in split.epoch(seed, epoch):            # order and augmentation depend on (seed, epoch) only
        teacher_out = forward_teacher(batch, union of needs)     # once, no gradient
        for trial in cohort: trial.step(batch, teacher_out)      # forward, objective, backward, optimizer step
    end of epoch: evaluate, log, checkpoint

Each member has its own weights, optimizer, random state and sums. So it ends with the same bits whether it trains alone
or among others, and whether it was interrupted or not.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data import Splits
from kdbench.method.contract import Batch, Outputs
from kdbench.nets import Net
from kdbench.suite.spec import Batches
from kdbench.train.clock import Clock
from kdbench.train.digests import note_start, note_state
from kdbench.train.evaluation import Judged, evaluate, predictions
from kdbench.train.group import ALONE, Group
from kdbench.train.labels import labelled
from kdbench.train.lent import THOROUGH, Guard, Lent, Undermined
from kdbench.train.memory import is_out_of_memory
from kdbench.train.objective import batch_norm_needs
from kdbench.train.optim import learning_rate
from kdbench.train.own_part import training_part
from kdbench.train.repeat import step_twice
from kdbench.train.teacher_cache import TeacherCache
from kdbench.train.trial import Trial, forward_teacher, no_outputs, views_of


class Stopped(Exception):
    """The run was asked to stop; state is saved."""


class OutOfMemory(Exception):
    """The cohort does not fit; whoever runs it splits it."""


class Broken(Exception):
    """Something that all members need failed: a batch, the teacher's forward. Its cause says how."""


@contextmanager
def shared() -> Iterator[None]:
    """Around what all members need: whatever it raises is `Broken`."""
    try:
        yield
    except Exception as error:
        raise Broken from error


@dataclass
class Hooks:
    """What whoever runs a cohort wants to know. Every hook is optional."""

    step: Callable[[int], None] = lambda members: None  # a lock-step was made by so many members
    epoch: Callable[[Trial], None] = lambda trial: None  # a trial finished an epoch
    checkpoint: Callable[[Sequence[Trial]], None] = lambda trials: None  # a moment at which state may be saved
    stop: Callable[[], bool] = lambda: False  # asked after every step, by all of a group


@dataclass
class Cohort:
    """What the members share: the frozen teacher, the data, how they are batched, the seed of the batches."""

    teacher: Net | None
    splits: Splits
    batches: Batches
    seed: int
    hooks: Hooks = field(default_factory=Hooks)
    cache: TeacherCache | None = None
    group: Group = ALONE
    judged: nn.Module | None = None  # what gives the teacher's logits for the classes of the data, if not it itself
    at_end: bool = False  # members are judged once, when they are trained: not here
    neighbours: int | None = None  # of how many nearest training examples each member's embeddings are judged then
    seen: Any = None  # the training set, as this process reads it; None: whole
    known: Tensor | None = None  # the teacher's predictions on the test set [N], once training has begun

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return int(self.splits.train.steps(self.batches))


def train_cohort(cohort: Cohort, trials: Sequence[Trial]) -> bool:
    """Train every trial to its end (status `done`, or `diverged` or `failed` with a reason).

    Returns False when `hooks.stop` ended it early. Raises OutOfMemory when several members do not fit together, and
    Undermined when one wrote into what it was lent and the others must start again.
    """
    try:
        return train(cohort, trials)
    except Undermined:
        if any(trial.status == "running" for trial in trials):
            raise
        return True
    except Broken as broken:
        running, error = [t for t in trials if t.status == "running"], broken.__cause__
        assert isinstance(error, Exception)
        cohort.group.raised(error)
        if is_out_of_memory(error) and len(running) > 1:
            raise OutOfMemory from error
        for trial in running:
            trial.fail(error)
        return True


def train(cohort: Cohort, trials: Sequence[Trial]) -> bool:
    """As `train_cohort`, but raises Broken where a batch or the teacher's forward fails."""
    splits, hooks, precision = cohort.splits, cohort.hooks, cohort.batches.precision
    if cohort.teacher is not None:
        with shared():
            cohort.known = predictions(cohort.judged or cohort.teacher, splits.test, precision, cohort.group)
    note_start(trials)
    cohort.seen = training_part(splits.train, cohort.group, trials)
    running = [t for t in trials if t.status == "running"]
    for number in range(min((t.evaluated for t in running), default=0), cohort.batches.epochs):
        if not train_epoch(cohort, running, number):
            return False
        ended = [t for t in running if t.evaluated == number and t.status == "running"]
        end_epoch(cohort, ended)
        for trial in ended:
            hooks.epoch(trial)
        running = [t for t in running if t.status == "running"]
        hooks.checkpoint([t for t in ended if t.status == "running"])
    for trial in running:
        trial.status = "done"
    return True


def train_epoch(cohort: Cohort, running: Sequence[Trial], number: int) -> bool:
    """One pass over the training set, from where the first member is. False when it was stopped."""
    done = number * cohort.steps
    for trial in running:
        trial.enter(number, trial.done == done, cohort.steps)
    start = max(0, min((t.done for t in running), default=done) - done)
    clock = Clock()
    for step, batch in enumerate(epoch_of(cohort, number, start, views_needed(running)), start):
        members = [t for t in running if t.done == done + step and t.status == "running"]
        if not members:  # all are past this step: they went on from a checkpoint
            continue
        place, last = (number, step), done + step == cohort.batches.epochs * cohort.steps - 1
        thorough = (done + step) % THOROUGH == 0 or last or step == start > 0
        lock_step(cohort, members, batch, place, clock, thorough)
        cohort.hooks.step(len(members))
        # Asked first: a signal that comes from here on ends the next step, whose state is then saved.
        stopping = cohort.hooks.stop()
        cohort.hooks.checkpoint(members)
        if stopping:
            return False
        clock.lap()
    return True


def epoch_of(cohort: Cohort, number: int, start: int, views: Sequence[str]) -> Iterator[Batch]:
    """The batches of an epoch, each with the training's progress. Raises Broken, also when they are too few or many."""
    with shared():
        batches = (cohort.seen or cohort.splits.train).epoch(cohort.batches, cohort.seed, number, start, views)
    for step in count(start):
        with shared():
            batch = next(batches, None)
            if (batch is None) != (step >= cohort.steps):
                raise ValueError(f"epoch {number + 1} of the data has not the {cohort.steps} batches that it said")
            if batch is None:
                return
            batch = with_progress(cohort, batch, (number, step))
        yield batch


def lock_step(
    cohort: Cohort,
    members: Sequence[Trial],
    batch: Batch,
    place: tuple[int, int],
    clock: Clock,
    thorough: bool = False,
) -> None:
    """One batch for all members; `place`: epoch and step. One that raises leaves the cohort; the others go on.

    So does one that writes into what it is lent; those after it get it made anew. `thorough`: see `lent.py`. Raises
    Undermined.
    """
    seconds = {"data": clock.lap()}
    teacher_out, saved, again = teacher_outputs(cohort, members, batch, place)
    seconds["teacher"] = clock.lap() - again + saved  # the cost that is stated is that without a cache
    if cohort.cache is not None and not saved:
        cohort.cache.add(place[1], cohort.steps, teacher_out, seconds["teacher"])
    lent = lend(batch, teacher_out, thorough)
    for trial in members:
        rate = learning_rate(trial.train_spec, trial.done, cohort.steps)
        guard = Guard(lent)
        try:
            with guard:
                step_twice(trial, partial(trial.step, batch, teacher_out, torch.tensor(rate, dtype=torch.float64)))
        except Exception as error:
            cohort.group.raised(error)
            if is_out_of_memory(error) and len(members) > 1:
                raise OutOfMemory from error
            trial.fail(error)
        if guard.spoilt:
            if guard.behind and place != (0, 0):
                raise Undermined(trial.key)
            batch = batch_at(cohort, members, place)
            teacher_out, *_ = teacher_outputs(cohort, members, batch, place)
            lent = lend(batch, teacher_out, thorough)
        charged = seconds["teacher"] * has_plain(trial.needs) + again * bool(batch_norm_needs(trial.needs))
        for name, took in {**seconds, "teacher": charged, "step": clock.lap()}.items():
            trial.seconds[name] += took


def lend(batch: Batch, teacher_out: Outputs, thorough: bool) -> Lent:
    return Lent({"the batch's": batch, "the teacher's": teacher_out}, thorough)


def batch_at(cohort: Cohort, members: Sequence[Trial], place: tuple[int, int]) -> Batch:
    """The batch of `place` once more from the data. Raises Broken."""
    return next(epoch_of(cohort, *place, views_needed(members)))


def views_needed(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Which other views of a batch the trials or their teacher see."""
    return views_of(frozenset().union(*(t.needs | t.objective.student_needs for t in trials)))


def teacher_outputs(
    cohort: Cohort, members: Sequence[Trial], batch: Batch, place: tuple[int, int]
) -> tuple[Outputs, float, float]:
    """The teacher's outputs for the union of the members' needs, and the seconds saved where they were cached.

    Logits [B, 0] when nobody needs it. The third value: seconds of a second forward, with batch norms in train mode,
    for those who ask for it. Raises Broken.
    """
    needs = frozenset().union(*(trial.needs for trial in members))
    if cohort.teacher is None or not needs:
        return no_outputs(batch), 0.0, 0.0
    teacher, precision = cohort.teacher, cohort.batches.precision
    plain = frozenset(need for need in needs if ":" not in need)
    with shared(), Guard(Lent({"the batch's": batch})):
        ask = partial(forward_teacher, teacher, batch, precision=precision, group=cohort.group)
        compute = partial(ask, plain)
        outputs, saved = (compute(), 0.0) if cohort.cache is None else cohort.cache.get(*place, plain, compute)
        start = time.perf_counter()
        if plain != needs:
            outputs = replace(outputs, views=outputs.views | ask(needs - plain).views)
        again = time.perf_counter() - start
    return outputs, saved, again


def has_plain(needs: frozenset[str]) -> bool:
    """Is the teacher asked in eval mode?"""
    return any(":" not in need for need in needs)


def end_epoch(cohort: Cohort, trials: Sequence[Trial]) -> None:
    """Evaluate all members in one pass per split. The test set is only looked at: nothing is decided by it."""
    if not trials:
        return
    start = time.perf_counter()
    nets, precision, splits = [trial.deliver() for trial in trials], cohort.batches.precision, cohort.splits
    metric = splits.judged_by
    parts = {} if cohort.at_end else {"test": (splits.test, cohort.known), "validation": (splits.validation, None)}
    with shared():
        found = {
            name: evaluate(nets, split, precision, known, cohort.group, metric)
            for name, (split, known) in parts.items()
            if split is not None
        }
    seconds = (time.perf_counter() - start) / len(trials)
    for place, trial in enumerate(trials):
        judged = {split: values[place] for split, values in found.items()}
        errors = [value for value in judged.values() if isinstance(value, Exception)]
        if any(map(is_out_of_memory, errors)) and len(trials) > 1:
            raise OutOfMemory from errors[0]
        if errors:
            trial.fail(errors[0])
            continue
        trial.end_epoch(cohort.steps, {k: v.scores for k, v in judged.items() if isinstance(v, Judged)})
        note_state(trial)
        trial.seconds["epochs"] += seconds


def with_progress(cohort: Cohort, batch: Batch, place: tuple[int, int]) -> Batch:
    """The batch of `place` (epoch and step) with the share of the training that is done, 0..1."""
    (epoch, step), device = place, batch.target.device
    batch = labelled(batch, cohort.batches, cohort.splits.num_classes)
    share = (epoch * cohort.steps + step) / (cohort.batches.epochs * cohort.steps)
    return replace(batch, progress=torch.full((), share, dtype=torch.float64, device=device))

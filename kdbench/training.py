"""The loop: a cohort trains in lock-step on one pass of the data and one forward of the teacher.

    for epoch: for batch in loader(dataset, seed, epoch):   # order and augmentation depend on (seed, epoch) only
        taught = teacher(batch, union of needs)             # once, no gradient
        for trial in cohort: trial.step(batch, taught)      # forward, objective, backward, optimizer step
    end of epoch: evaluate, log, checkpoint

Nothing a member does can reach another: each has its own weights, optimizer, random state and sums. So a member ends
with the same bits whether it trains alone or among others, and whether it was interrupted or not.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data.splits import Epoch, Loader, Splits
from kdbench.evaluation import autocast, evaluate, predictions
from kdbench.method import VIEWS, Batch, Outputs
from kdbench.models import Net
from kdbench.objective import Deployed, Objective, own_needs
from kdbench.seeding import RandomState, derive
from kdbench.suite import Train


class OutOfMemory(Exception):
    """The cohort does not fit; the engine splits it."""


class Trial:
    """One member of a cohort in training: a student, its objective, its optimizer, its random state, its curves."""

    def __init__(self, net: Net, objective: Objective, train: Train, device: torch.device, seed: int) -> None:
        self.net = net.to(device).to(memory_format=torch.channels_last)
        self.objective = objective.to(device)
        self.train_spec, self.device = train, device
        self.deployed = Deployed(self.net, self.objective)
        self.params = [p for p in [*net.parameters(), *objective.parameters()] if p.requires_grad]
        self.optimizer = make_optimizer(self.params, train)
        # Two streams: what a method draws must not change the student's drop-out masks, which all objectives share.
        self.student_random = RandomState(device, "student", seed)
        self.method_random = RandomState(device, "method", seed)
        self.done = 0  # steps
        self.evaluated = 0  # epochs
        self.sums: dict[str, Tensor] = {}  # this epoch's losses, added up on the device
        self.curves: dict[str, list[float]] = {}
        self.seconds: dict[str, float] = {"step": 0.0, "teacher": 0.0, "data": 0.0, "epochs": 0.0}
        self.status, self.reason = "running", ""
        self.net.train()
        self.objective.train()

    @property
    def needs(self) -> frozenset[str]:
        return self.objective.needs

    def weights(self) -> dict[str, Tensor]:
        """The student's weights under the timm model's names; what stays of the method at inference as `method.*`."""
        weights = dict(self.net.model.state_dict())
        if self.deployed.method is not None:
            weights |= {f"method.{name}": value for name, value in self.deployed.method.state_dict().items()}
        return weights

    def step(self, batch: Batch, taught: Outputs, lr: float) -> None:
        """One optimizer step. `taught`: the teacher's outputs, in fp32 (or wider) and without gradient."""
        said = self.say(batch)
        with self.method_random:
            task, distilled, losses = self.objective(said, taught, batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.backward(task, distilled)
        if self.train_spec.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.params, self.train_spec.clip_grad)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        for name, value in {"total": task + distilled, **losses}.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
        self.done += 1

    def say(self, batch: Batch) -> Outputs:
        """What the student says, in fp32 or wider; and what its peer says, where a method has it learn beside one."""
        needs, peer = self.objective.student_needs, self.objective.peer
        with autocast(self.device, self.train_spec.precision):
            with self.student_random:
                said = all_views(self.net, batch, needs)
            if "peer" in needs and peer is not None:
                with self.method_random:
                    said = replace(said, peer=peer(batch.images))
        return at_least_fp32(said)

    def backward(self, task: Tensor, distilled: Tensor) -> None:
        """Gradients of the sum; or what the objective's rule makes of those of its two parts (DOT)."""
        rule = self.objective.rule()
        if rule is None:
            (task + distilled).backward()
            return
        parts = zip(self.params, gradients(task, self.params), gradients(distilled, self.params), strict=True)
        both = []
        for parameter, of_task, of_distilled in parts:
            parameter.grad = of_task if of_distilled is None else of_distilled
            if of_task is not None and of_distilled is not None:
                both.append((parameter, of_task, of_distilled))
        if both:
            params, *sides = (list(column) for column in zip(*both, strict=True))
            for parameter, gradient in zip(params, rule.combine(params, *sides, self.optimizer), strict=True):
                parameter.grad = gradient

    def end_epoch(self, num_steps: int, scores: dict[str, dict[str, float]]) -> None:
        """Read this epoch's sums, note its curves, and leave the cohort if something is not finite."""
        losses = {f"loss/{name}": float(value) / num_steps for name, value in self.sums.items()}
        self.sums = {}
        self.evaluated += 1
        for split, values in scores.items():
            losses |= {f"{split}_{name}": value for name, value in values.items()}
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            self.status = "diverged"
            self.reason = f"{broken[-1]} was {losses[broken[-1]]} in epoch {self.evaluated}"
            return
        for name, value in losses.items():
            self.curves.setdefault(name, []).append(value)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same bits; tensors, numbers and text only."""
        return {
            "net": self.net.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": [self.student_random.state, self.method_random.state],
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.student_random.state, self.method_random.state = state["random"]
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.sums = {name: value.to(self.device) for name, value in self.sums.items()}


_PLAIN = ("done", "evaluated", "sums", "curves", "seconds")


@dataclass
class Hooks:
    """What the engine wants to hear. Every hook is optional."""

    step: Callable[[int], None] = lambda members: None  # a lock-step was made by so many members
    epoch: Callable[[Trial], None] = lambda trial: None  # a trial finished an epoch
    checkpoint: Callable[[Sequence[Trial]], None] = lambda trials: None  # a moment at which state may be saved
    stop: Callable[[], bool] = lambda: False  # asked after every step


def train_cohort(
    trials: Sequence[Trial], teacher: Net | None, splits: Splits, train: Train, seed: int, hooks: Hooks | None = None
) -> bool:
    """Train every trial to its end (status `done`, or `diverged` or `failed` with a reason).

    `train` gives what a cohort shares: epochs, batch size, augmentation, precision. Returns False when `hooks.stop`
    ended it early. Raises OutOfMemory when several members do not fit together.
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
            lock_step(members, teacher, epoch, step, place / (train.epochs * loader.steps), loader.steps, device)
            hooks.step(len(members))
            if hooks.stop():
                hooks.checkpoint(members)
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
) -> None:
    """One batch for all members. One that raises leaves the cohort; the others go on."""
    clock = Clock(device)
    needs = frozenset().union(*(trial.needs | trial.objective.student_needs for trial in members))
    batch = epoch.batch(step, progress, **{view: view in needs for view in VIEWS})
    shared = {"data": clock.lap()}
    taught = teach(teacher, batch, members)
    shared["teacher"] = clock.lap()
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


def teach(teacher: Net | None, batch: Batch, members: Sequence[Trial]) -> Outputs:
    """The teacher's outputs for the union of the members' needs; an empty answer when nobody asks."""
    needs = frozenset().union(*(trial.needs for trial in members))
    if teacher is None or not needs:
        return Outputs(logits=batch.images.new_zeros(len(batch.target), 0))
    return ask(teacher, batch, needs, members[0].train_spec.precision)


@torch.no_grad()
def ask(teacher: Net, batch: Batch, needs: frozenset[str], precision: str) -> Outputs:
    with autocast(batch.images.device, precision):
        return at_least_fp32(all_views(teacher, batch, needs))


def all_views(net: Net, batch: Batch, needs: frozenset[str]) -> Outputs:
    """The net's outputs on the batch, and its logits on those of the other views that are needed.

    Where only other views are, the net does not see the batch itself: `logits` are [B, 0].
    """
    own = own_needs(needs)
    said = net(batch.images, own) if own else Outputs(batch.images.new_zeros(len(batch.target), 0))
    return replace(said, **{view: net(getattr(batch, view)) for view in VIEWS if view in needs})


def gradients(loss: Tensor, params: Sequence[nn.Parameter]) -> Sequence[Tensor | None]:
    """Of one part of the loss, which may reach no parameter at all; the graph is kept for the other part."""
    if not loss.requires_grad:
        return [None] * len(params)
    return torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)


def taught_epoch(
    teacher: Net, needs: frozenset[str], splits: Splits, train: Train, seed: int, number: int
) -> Iterator[tuple[Outputs, Batch]]:
    """A pass over the training set with the teacher's outputs, for `Method.prepare`."""
    loader = Loader(splits.train, train.batch_size, train.augment, derive("prepare", seed))
    epoch = loader.epoch(number)
    for step in range(loader.steps):
        batch = epoch.batch(step, 0.0, **{view: view in needs for view in VIEWS})
        yield ask(teacher, batch, needs, train.precision), batch


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


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then the schedule over the epochs."""
    at = step / steps_per_epoch  # epochs done
    if at < train.warmup_epochs:
        return train.lr * (step + 1) / (train.warmup_epochs * steps_per_epoch)
    schedule = train.schedule
    if schedule.kind == "step":
        return train.lr * schedule.gamma ** sum(int(at) >= epoch for epoch in schedule.step)
    if schedule.kind == "cosine":
        share = (at - train.warmup_epochs) / (train.epochs - train.warmup_epochs)
        return train.lr * 0.5 * (1 + math.cos(math.pi * share))
    return train.lr


def make_optimizer(params: list[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """One group: adapters follow the student's settings, and weight decay holds for all (as in the CRD benchmark)."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(params, lr=train.lr, weight_decay=train.weight_decay, foreach=True)
    return torch.optim.SGD(
        params, train.lr, train.momentum, weight_decay=train.weight_decay, nesterov=train.nesterov, foreach=True
    )


def at_least_fp32(outputs: Outputs) -> Outputs:
    """Half precision is widened before any loss is computed: squares and exponentials need the digits."""
    return outputs.map(lambda x: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


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


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)

"""One member of a cohort, and its step."""

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import in_words
from kdbench.method.contract import VIEWS, Batch, Outputs
from kdbench.method.rules import is_rule
from kdbench.nets import Net
from kdbench.seeding import RandomState
from kdbench.suite.spec import Train
from kdbench.train.arithmetic import trusted
from kdbench.train.average import averaged
from kdbench.train.evaluation import autocast
from kdbench.train.gradients import combine, gradients, scaler_of, set_gradients
from kdbench.train.group import ALONE, Group
from kdbench.train.lent import without_weights
from kdbench.train.objective import (
    BATCH_NORMS,
    Objective,
    batch_norm_needs,
    norms_of_the_batch,
    own_needs,
    stays,
)
from kdbench.train.optim import make_optimizer, set_rate
from kdbench.train.reach import TeachesNothing, reaches
from kdbench.train.student import Delivered
from kdbench.train.updates import update_of


class Misfit(Exception):
    """A checkpoint is not of this trial: another version of the program made it."""


class Trial:
    """One member of a cohort in training: a student, its objective, its optimizer, its random state, its curves."""

    def __init__(
        self,
        net: Net,
        objective: Objective,
        train: Train,
        device: torch.device,
        seed: int,
        group: Group = ALONE,
    ) -> None:
        self.net = net.to(device).to(memory_format=torch.channels_last)
        self.objective = objective.to(device).to(memory_format=torch.channels_last)
        self.train_spec, self.device, self.group, self.seed = train, device, group, seed
        self.earlier: list[int] = []  # how many devices trained it before, in turn, where it was another number
        self.delivered = Delivered(self.net, self.objective)
        self.average = averaged(self.delivered, train)  # of the weights; None where the recipe asks for none
        trusted(self.net)
        trusted(self.objective)
        narrow_adapters(objective, device, train.precision)
        self.params = [p for p in [*net.parameters(), *objective.parameters()] if p.requires_grad]
        self.optimizer = make_optimizer(self.params, train, net.model)
        self.scaler = scaler_of(train, objective, device)
        # Two streams: what a method draws must not change the student's drop-out masks, which all objectives share.
        self.student_random, self.method_random = (RandomState(device, of, seed) for of in ("student", "method"))
        self.done = 0  # steps: batches that it has seen
        self.steps_per_epoch = 0
        self.evaluated = 0  # epochs
        self.sums: dict[str, Tensor] = {}  # this epoch's losses, added up on the device
        self.curves: dict[str, list[float]] = {}
        self.digests: list[str] = []  # of its state before the first step, and after every epoch
        # "prepare": what methods learn from the teacher before the first step, its forward included (FT).
        self.seconds = dict.fromkeys(("step", "teacher", "data", "epochs", "prepare"), 0.0)
        self.status, self.reason = "running", ""
        self.repeatable: bool | None = None  # did its first step give the same bits twice? None: not tried
        self.silent: list[str] = []  # methods of this phase of which no loss has reached the student yet
        self.key = ""  # under which its state is saved
        self.net.train()
        self.objective.train()

    @property
    def needs(self) -> frozenset[str]:
        return self.objective.needs

    def deliver(self) -> Delivered:
        """The student as it is used: what is evaluated, profiled, saved and exported."""
        return self.delivered if self.average is None else self.average.delivered

    def enter(self, epoch: int, fresh: bool, steps: int) -> None:
        """Go to the phase of `epoch`, which has so many `steps`; `fresh`: not from a checkpoint amidst it."""
        self.objective.enter(epoch)
        self.steps_per_epoch = steps
        if fresh and self.objective.begins(epoch):
            self.silent = [term.name for term in self.objective.terms() if not is_rule(type(term.method))]

    def listen(self, method: str, losses: Collection[Tensor]) -> None:
        """Note that a method teaches the student something: asked until it did once, mostly in the first step."""
        if method in self.silent:
            weights = {p for p in self.net.parameters() if p.requires_grad}
            if any(reaches(loss, weights) for loss in losses):
                self.silent = [name for name in self.silent if name != method]

    def step(self, batch: Batch, teacher_out: Outputs, lr: Tensor) -> None:
        """A batch, and an optimizer step at the rate `lr` []; with `accumulate` the last batch of an update makes it.
        `teacher_out`: in fp32 (or wider) and without gradient."""
        student_out = self.group.forward(self.forward_student, batch, self.train_spec.norm_parts)
        with self.method_random:
            task, distilled, losses = self.objective(student_out, teacher_out, batch, self.listen)
        update = update_of(self.done, self.steps_per_epoch, self.train_spec.accumulate)
        if update.begins:
            self.optimizer.zero_grad(set_to_none=True)
        self.backward(task, distilled, update.batches)
        if update.ends:
            self.update(lr)
        for name, value in {"total": task + distilled, **losses}.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach().clone()
        self.done += 1

    def update(self, lr: Tensor) -> None:
        """The optimizer's step with the gradients that there are, at the rate `lr` []."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.train_spec.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.params, self.train_spec.clip_grad)
        set_rate(self.optimizer, lr)
        self.scaler.step(self.optimizer)  # but where a gradient overflowed in half precision
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.delivered)

    def forward_student(self, batch: Batch) -> Outputs:
        """The student's outputs, in fp32 or wider; with its peer's, where a method has it learn beside one."""
        needs, peer = self.objective.student_needs, self.objective.peer
        with autocast(self.device, self.train_spec.precision):
            with self.random("student"):
                outputs = all_views(self.net, batch, needs)
            if "peer" in needs and peer is not None:
                with self.random("method"):
                    outputs = replace(outputs, views={**outputs.views, "peer": peer(batch.inputs)})
        return at_least_fp32(outputs).map(with_gradient_in_its_layout)

    def random(self, which: str) -> RandomState:
        """What a net draws from, `student` or `method`; of several processes each has its own, by step and rank."""
        if self.group.size > 1:
            return RandomState(self.device, which, self.seed, self.group.rank, self.done)
        return self.student_random if which == "student" else self.method_random

    def backward(self, task: Tensor, distilled: Tensor, batches: int = 1) -> None:
        """Gradients of the sum, which is one of so many `batches` of an update; or what the objective's rule makes of
        those of its two parts (DOT), which takes one batch."""
        rule = self.objective.rule()
        if rule is None:
            loss = task + distilled
            self.scaler.scale(loss if batches == 1 else loss / batches).backward()
            for parameter, gradient in zip(self.params, self.group.mean([p.grad for p in self.params]), strict=True):
                parameter.grad = gradient
            return
        of_task, of_distilled = (self.group.mean(gradients(part, self.params)) for part in (task, distilled))
        combine(rule, self.params, of_task, of_distilled, self.optimizer)

    def fail(self, error: Exception) -> None:
        """Leave the cohort, with the reason."""
        self.status, self.reason = "failed", in_words(error)

    def end_epoch(self, num_steps: int, scores: dict[str, dict[str, float]]) -> None:
        """Read this epoch's sums, note its curves, and leave the cohort if something is not finite."""
        losses = {f"loss/{name}": float(value) / num_steps for name, value in self.sums.items()}
        self.sums = {}
        self.evaluated += 1
        if self.silent:
            return self.fail(TeachesNothing(self.silent, self.evaluated))
        for split, values in scores.items():
            losses |= {f"{split}_{name}": value for name, value in values.items()}
        broken = [name for name, value in losses.items() if not math.isfinite(value)]
        if broken:
            self.status = "diverged"
            terms = [name for name in broken if name.startswith("loss/") and name != "loss/total"]
            name = (terms or broken)[0]
            self.reason = f"{name} was {losses[name]} in epoch {self.evaluated}"
            return
        for name, value in losses.items():
            self.curves.setdefault(name, []).append(value)

    def state(self) -> dict[str, Any]:
        """All that a later process needs to go on with the same bits; tensors, numbers and text only."""
        average = {"average": self.average.state()} if self.average is not None else {}
        added = {"gradients": [p.grad for p in self.params]} if self.train_spec.accumulate else {}
        return {
            **average,
            **added,
            **({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
            "net": self.net.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "devices": self.group.size,
            "earlier": self.earlier,
            "random": [self.student_random.state, self.method_random.state],
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Raises Misfit; then the trial is of no more use."""
        try:
            self._load_state(state)
        except torch.OutOfMemoryError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise Misfit(str(error)) from error

    def _load_state(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state(state["average"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.train_spec.accumulate:
            set_gradients(self.params, state["gradients"])
        self.student_random.state, self.method_random.state = state["random"]
        self.earlier = state.get("earlier", []) + list({state.get("devices", 1)} - {self.group.size})
        for name in _PLAIN:
            setattr(self, name, state[name])
        self.sums = {name: value.to(self.device) for name, value in self.sums.items()}


_PLAIN = ("done", "evaluated", "sums", "curves", "digests", "seconds", "repeatable", "silent")


def all_views(net: Net, batch: Batch, needs: frozenset[str]) -> Outputs:
    """The net's outputs on the batch, and its logits on those of the other views that are needed.

    Where only other views are, the net does not see the batch itself: `logits` are [B, 0].
    """
    own = own_needs(needs)
    outputs = net(batch.inputs, own) if own else no_outputs(batch)
    views = {view: net(batch.views[view]) for view in VIEWS if view in needs}
    if wanted := batch_norm_needs(needs):
        with norms_of_the_batch(net):
            views[BATCH_NORMS] = net(batch.inputs, wanted)
    return replace(outputs, views=views)


def no_outputs(batch: Batch) -> Outputs:
    """Those of a net that nobody asks: logits [B, 0]."""
    return Outputs(torch.zeros(len(batch.target), 0, device=batch.target.device))


@torch.no_grad()
def forward_teacher(teacher: Net, batch: Batch, needs: frozenset[str], precision: str, group: Group = ALONE) -> Outputs:
    """The teacher's outputs, in fp32 or wider."""

    def compute(part: Batch) -> Outputs:
        with autocast(part.target.device, precision):
            return without_weights(at_least_fp32(all_views(teacher, part, needs)))

    return group.forward(compute, batch)


def with_gradient_in_its_layout(x: Tensor) -> Tensor:
    """Some losses return a map's gradient in another order than the map's, on which convolutions are slow."""
    if x.ndim == 4 and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return x


def narrow_adapters(objective: Objective, device: torch.device, precision: str) -> None:
    """Let the convolutions of adapters run in the nets' precision; what they give is fp32 again, as all losses are.

    In fp32 they are what some methods spend most of their time on. Left as they are: depthwise ones, which a CPU is
    slow at in bf16, and an adapter that stays at inference: it is part of the student, which is evaluated, measured and
    exported by other rules.
    """
    if precision == "fp32":
        return
    for term in objective.all_terms():
        for module in term.method.modules():
            dense = isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.groups == 1
            if dense and not stays(term.method):
                module.forward = _narrow(module.forward, device, precision)


def _narrow(forward: Callable[[Tensor], Tensor], device: torch.device, precision: str) -> Callable[[Tensor], Tensor]:
    def narrowed(x: Tensor) -> Tensor:
        with autocast(device, precision):
            return forward(x).float()

    return narrowed


def at_least_fp32(outputs: Outputs) -> Outputs:
    """Half precision is widened before any loss is computed: squares and exponentials need the digits."""
    return outputs.map(lambda x: x.float() if x.dtype in (torch.bfloat16, torch.float16) else x)


def views_of(needs: Iterable[str]) -> tuple[str, ...]:
    """Which other views of a batch are among `needs`."""
    return tuple(view for view in VIEWS if view in needs)

"""An objective: a weighted sum of methods, and the owner of their adapters."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.method.contract import VIEWS, Batch, EpochOf, Inapplicable, Method, Outputs, Task
from kdbench.method.functional import standardise
from kdbench.method.kinds import LABELS, OF_CLASSES, fits, knows, seen_by
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.seeding import derive, seeded
from kdbench.suite.objectives import Phase, Terms
from kdbench.train.lent import without_weights
from kdbench.train.unread import Hidden, Lacking, Unknown, labelled_rows, of_rows, unlabelled, without_labels

BATCH_NORMS = "batch_norms"  # the view of the teacher with its batch norms in train mode


class Term(nn.Module):
    """One method with its weight, its schedules and its view of the logits."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__()
        self.name, settings = name, dict(settings)
        self.weight: float | dict[str, Any] = settings.pop("weight")
        self.standardise: str = settings.pop("standardise")
        self.teacher_norms: str | None = settings.pop("teacher_norms", None)
        self.ramps = {key: value for key, value in settings.items() if is_ramp(value)}
        plain = {key: value["from"] if key in self.ramps else value for key, value in settings.items()}
        self.method: Method = METHODS[name](**plain)
        self.unread: type[Hidden] | None = None  # how labels are hidden from it, of a kind that it does not know
        for key in self.ramps:
            if not hasattr(self.method, key):
                raise UserError(f"{name}: {key} can't follow a schedule (the method does not read it while training)")

    def losses(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The present weight, and the method's losses."""
        for key, ramp in self.ramps.items():
            setattr(self.method, key, ramp_at(ramp, batch.progress))
        if self.teacher_norms:
            teacher = teacher.views[BATCH_NORMS]
        if self.unread:
            batch = without_labels(batch, self.unread)
        if self.standardise != "none":
            student, teacher = self._standardised(student), self._standardised(teacher)
        weight = ramp_at(self.weight, batch.progress) if isinstance(self.weight, dict) else self.weight
        return weight, self.method(student, teacher, batch)

    def losses_of_labelled(
        self, student: Outputs, teacher: Outputs, batch: Batch
    ) -> tuple[float | Tensor, dict[str, Tensor]]:
        """As `losses`, of data of which some examples have no label: who learns from labels alone sees the others only.

        Who does not sees all examples, and can't read a label.
        """
        if type(self.method).family != LABELS:
            return self.losses(student, teacher, without_labels(batch, Lacking))
        if len(rows := labelled_rows(batch)):
            return self.losses(*of_rows(student, teacher, batch, rows))
        return 0.0, {self.name: 0 * student.logits.sum()}  # nothing to learn here

    def build(self, student: Outputs, teacher: Outputs, task: Task, *seed: object) -> None:
        """Make the method's adapters from its own generator. Raises Inapplicable."""
        fits(self.method, task, self.standardise)
        takes_features(self.method, student, teacher)
        takes_classes(self.method, teacher, task)
        self.unread = None if knows(type(self.method), task) else Unknown
        with seeded("adapters", self.name, *seed):
            self.method.build(student, teacher, seen_by(type(self.method), task))

    def prepare(self, epoch_of: EpochOf) -> None:
        how = self.unread
        self.method.prepare(epoch_of if how is None else lambda number: unlabelled(epoch_of(number), how))

    @property
    def needs(self) -> frozenset[str]:
        """What the teacher must deliver; `batch_norms:features` is its features with batch norms in train mode."""
        wanted = needs_of([self.name])
        return frozenset(f"{BATCH_NORMS}:{need}" for need in wanted) if self.teacher_norms else wanted

    def _standardised(self, outputs: Outputs) -> Outputs:
        """Logit standardisation (Sun et al. 2024, https://arxiv.org/abs/2403.01427), for any method on logits."""
        logits: Any = standardise(outputs.logits, population=self.standardise == "population")
        views = {name: self._standardised(view) for name, view in outputs.views.items()}
        return replace(outputs, logits=logits, views=views)


class Objective(nn.Module):
    """`phases` as `Cell.phases`: usually one, for all epochs; each a table method -> weight and settings.

    Adapters are made after the student and from their own generator, one per method, so that they neither disturb
    the student's initial weights nor depend on which other methods stand beside them.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        super().__init__()
        self.lengths = [epochs for epochs, _ in phases]
        self.phases = nn.ModuleList(_terms(terms) for _, terms in phases)
        self.place = 0
        self.unlabelled = False  # are its methods given labels that can't be read?
        self.partly = False  # have only some examples a label?
        self.peer: nn.Module | None = None  # a second student, where a method needs one; trained, saved and counted

    def enter(self, epoch: int) -> None:
        """Go to the phase of `epoch` (from 0)."""
        self.place, end = 0, 0
        for length in self.lengths[:-1]:
            end += length or 0
            self.place += epoch >= end

    def begins(self, epoch: int) -> bool:
        """Is `epoch` the first one of a phase?"""
        return epoch in (0, *accumulate(length or 0 for length in self.lengths[:-1]))

    @property
    def needs(self) -> frozenset[str]:
        """What the teacher must deliver in the present phase. Empty: it is not asked."""
        return frozenset().union(*(term.needs for term in self.terms()))

    @property
    def student_needs(self) -> frozenset[str]:
        """What the student must deliver in the present phase."""
        return student_needs_of(term.name for term in self.terms())

    def terms(self, place: int | None = None) -> Iterator[Term]:
        """The terms of the present (or the given) phase."""
        yield from self.phases[self.place if place is None else place].values()  # type: ignore[operator]

    def all_terms(self) -> Iterator[Term]:
        for place in range(len(self.phases)):
            yield from self.terms(place)

    def build(self, student: Outputs, teacher: Outputs, task: Task, *seed: object) -> None:
        """Build every method's adapters. Raises Inapplicable with the method's name in the reason."""
        for term in self.all_terms():
            if term.teacher_norms and BATCH_NORMS not in teacher.views:
                raise Inapplicable(f"{term.name} needs a teacher with batch norms (teacher_norms: batch)")
            if is_rule(type(term.method)) and task.accumulate > 1:
                raise Inapplicable(f"{term.name} needs an optimizer step for each batch (train.accumulate)")
            try:
                term.build(student, teacher, task, *seed)
            except Inapplicable as reason:
                raise Inapplicable(f"{term.name} {reason}") from None

    def prepare(self, epoch_of: EpochOf, *seed: object) -> None:
        """Let the methods learn from the teacher alone before training."""
        for term in self.all_terms():
            if prepares(term.method):
                with torch.random.fork_rng():
                    torch.manual_seed(derive("prepare", term.name, *seed))
                    term.prepare(epoch_of)

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        batch: Batch,
        heard: Callable[[str, Collection[Tensor]], None] = lambda method, losses: None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses on labels alone, that of those which ask the teacher, and all losses by name.

        Their sum is to be minimised; the losses by name are as the methods gave them (unweighted). `heard` gets what
        each method gave.
        """
        batch = without_labels(batch) if self.unlabelled else batch
        losses: dict[str, Tensor] = {}
        sums = [student.logits.new_zeros(()), student.logits.new_zeros(())]
        for term in self.terms():
            weight, found = (term.losses_of_labelled if self.partly else term.losses)(student, teacher, batch)
            heard(term.name, found.values())
            for name, loss in found.items():
                losses[self._curve(term.name, name, losses)] = loss
                part = bool(term.method.needs)
                sums[part] = sums[part] + weight * loss
        return sums[0], sums[1], losses

    @staticmethod
    def _curve(method: str, name: str, taken: Collection[str]) -> str:
        """Under which name a loss is shown: its own, or `method.name` where that is another's."""
        own = name == method and name != "total"
        return name if own or (name not in taken and name not in ("ce", "total")) else f"{method}.{name}"

    def rule(self) -> Method | None:
        """The present phase's rule on gradients, if there is one."""
        return next((term.method for term in self.terms() if is_rule(type(term.method))), None)

    def inference(self) -> Method | None:
        """The method whose adapter stays at inference, if there is one."""
        return next((term.method for term in self.terms(len(self.phases) - 1) if stays(term.method)), None)


def _terms(terms: Terms) -> nn.ModuleDict:
    return nn.ModuleDict({name: Term(name, settings) for name, settings in terms.items()})


def needs_of(methods: Iterable[str]) -> frozenset[str]:
    """What the teacher must deliver for `methods`. Empty: no teacher is needed."""
    return frozenset(need for name in methods for need in METHODS[name].needs)


def student_needs_of(methods: Iterable[str]) -> frozenset[str]:
    """What the student must deliver for `methods`; its logits where a method names nothing."""
    return frozenset(need for name in methods for need in METHODS[name].student_needs or ("logits",))


def takes_classes(method: Method, teacher: Outputs, task: Task) -> None:
    """Raises Inapplicable where the method reads logits of a teacher that has other classes than the data, or none."""
    known = teacher.logits.shape[1]
    if known != task.num_classes and OF_CLASSES & set(method.needs):
        raise Inapplicable(f"needs a teacher of the data's {task.num_classes} classes; this one has {known or 'none'}")


def takes_features(method: Method, student: Outputs, teacher: Outputs) -> None:
    """Raises Inapplicable where a net's features are sequences and the method takes maps alone."""
    for side, outputs, needs in (("student", student, method.student_needs), ("teacher", teacher, method.needs)):
        if "features" in needs and not method.sequences and any(x.ndim == 3 for x in outputs.features):
            raise Inapplicable(f"needs feature maps [B, C, H, W]; the {side} gives sequences [B, L, D]")


def own_needs(needs: Iterable[str]) -> frozenset[str]:
    """What of `needs` comes from one forward on the batch itself."""
    return frozenset(need for need in needs if need not in (*VIEWS, "peer") and ":" not in need)


def batch_norm_needs(needs: Iterable[str]) -> frozenset[str]:
    """What of `needs` comes from a forward on the batch with batch norms in train mode."""
    return frozenset(need.removeprefix(f"{BATCH_NORMS}:") for need in needs if need.startswith(f"{BATCH_NORMS}:"))


def batch_norms(net: nn.Module) -> list[Any]:
    return [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def norms_of_the_batch(net: nn.Module) -> Iterator[None]:
    """Inside, batch norms use the batch's statistics and keep none: no forward leaves a trace in the net."""
    norms = batch_norms(net)
    before = [(norm.training, norm.track_running_stats) for norm in norms]
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm, (training, tracks) in zip(norms, before, strict=True):
            norm.training, norm.track_running_stats = training, tracks


def prepares(method: Method) -> bool:
    return type(method).prepare is not Method.prepare


def stays(method: Method) -> bool:
    return type(method).infer is not Method.infer


def is_ramp(value: Any) -> bool:
    return isinstance(value, dict) and "from" in value


def ramp_at(ramp: dict[str, Any], progress: Tensor) -> Tensor:
    """`{from: a, to: b, curve: linear|cosine, until: share}` at `progress` [] in 0..1; b from `until` on."""
    x = (progress / ramp["until"]).clamp(max=1.0)
    if ramp["curve"] == "cosine":
        x = (1 - torch.cos(math.pi * x)) / 2
    return (ramp["from"] + (ramp["to"] - ramp["from"]) * x).float()


def blank_outputs(net: Any, needs: Iterable[str], task: Task, device: torch.device | str) -> Outputs:
    """What `net` gives for two blank inputs, for finding shapes. Batch-norm statistics stay untouched."""
    training = net.training
    net.eval()
    with torch.no_grad():
        outputs = net(task.inputs.blank(2, device), own_needs(needs))
    net.train(training)
    others = {*VIEWS, "peer"} & set(needs) | ({BATCH_NORMS} if batch_norms(net) else set())
    return replace(outputs, views={name: Outputs(outputs.logits) for name in others})


def built_objective(phases: Sequence[Phase], student: Any, teacher: Any, task: Task, device: Any, *seed: object) -> Any:
    """The objective of `phases` with adapters for two nets on `device`. Raises Inapplicable."""
    methods = sorted({name for _, terms in phases for name in terms})
    student_out = blank_outputs(student, student_needs_of(methods), task, device)
    teacher_out = without_weights(blank_outputs(teacher, needs_of(methods), task, device))
    made = Objective(phases)
    made.build(student_out, teacher_out, task, *seed)
    return made

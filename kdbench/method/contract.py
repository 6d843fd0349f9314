"""The contract between the engine and a method.

A method is one loss term between a frozen teacher and a student. It sees what both networks give for a batch
(`Outputs`), never the networks themselves, and returns named scalars.

Shapes: B batch, K classes, D width of the embedding, C channels, H x W grid.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Range
from torch import Tensor, nn

from kdbench.method.inputs import Inputs

# What a method may ask for with `needs=`. Only what some member of a cohort needs is computed.
# `second`, `mixed` and `plain` are logits on other views of the batch; `peer` is a second student that learns too.
VIEWS = ("second", "mixed", "plain")
NEEDS = (
    *("logits", "embedding", "features", "stem", "pooled_map", "preacts", "norms", "classifier", "token_logits"),
    *("attention", "queries", "keys", "values"),
    *(*VIEWS, "peer"),
)

# Ranges for settings: `def __init__(self, temperature: Positive = 4.0)`.
Positive = Annotated[float, Range(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Range(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Range(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Range(ge=1)]
# Stages are counted from the deep end (-1 is the last), or given as a fraction of depth (0.5 is half way).
Stage = Annotated[int, Range(lt=0)] | Annotated[float, Range(gt=0, le=1, allow_inf_nan=False)]


class Inapplicable(Exception):
    """Raised by `Method.build` when a method has no meaning for a pair; the text says why."""


@dataclass(frozen=True)
class Field:
    """One tensor of the inputs, without the batch: its shape, its type, and the range of its values.

    A whole number lies in low <= x < high, any other in low <= x <= high.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = 0.0
    high: float = 1.0

    def blank(self, n: int, device: torch.device | str) -> Tensor:
        """[n, *shape] of the middle of the range (of the highest whole number: a mask that hides nothing)."""
        middle = (self.low + self.high) / 2 if self.dtype.startswith("float") else self.high - 1
        return torch.full((n, *self.shape), middle, dtype=getattr(torch, self.dtype), device=device)

    def random(self, n: int, device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
        """[n, *shape] drawn evenly from the range; on the CPU first, so that any device gets the same."""
        if self.dtype.startswith("float"):
            drawn = torch.rand(n, *self.shape, generator=generator) * (self.high - self.low) + self.low
            return drawn.to(device, getattr(torch, self.dtype))
        return torch.randint(int(self.low), int(self.high), (n, *self.shape), generator=generator).to(device)


@dataclass(frozen=True)
class InputSpec:
    """What a net of this task takes, so that shapes can be found and nets be timed without knowing the domain.

    One field: the inputs are a tensor; several: a table of tensors by name. `about`: in words, for whoever ships a net.
    `others`: the other shapes that batches come in, smallest first, where there are several. `timed`: shapes at which
    nets are measured beside these, so that data sets can be compared. `made_by`: what made numbers of the examples, for
    nets that know such numbers from elsewhere. Neither is part of a record.
    """

    fields: tuple[Field, ...]
    about: str = ""
    others: "tuple[InputSpec, ...]" = ()
    timed: "tuple[InputSpec, ...]" = field(default=(), compare=False)
    made_by: tuple[str, ...] = field(default=(), compare=False)

    def blank(self, n: int, device: torch.device | str = "cpu") -> Inputs:
        """n equal inputs."""
        return self._of(lambda field: field.blank(n, device))

    def random(self, n: int, device: torch.device | str = "cpu", generator: torch.Generator | None = None) -> Inputs:
        """n inputs drawn at random."""
        return self._of(lambda field: field.random(n, device, generator))

    def _of(self, make: Callable[[Field], Tensor]) -> Inputs:
        if len(self.fields) == 1:
            return make(self.fields[0])
        return {field.name: make(field) for field in self.fields}

    def only(self, names: "tuple[str, ...] | None") -> "InputSpec":
        """Without the fields that are not among `names`; None: as it is."""
        if names is None:
            return self
        kept = tuple(field for field in self.fields if field.name in names)
        cut = tuple(dict.fromkeys(one.only(names) for one in self.others))
        return replace(self, fields=kept, others=cut, timed=tuple(one.only(names) for one in self.timed))

    def varying(self) -> dict[str, dict[int, tuple[int, ...]]]:
        """Field -> dimension (without the batch) -> its sizes in all shapes, of those that differ between shapes."""
        found: dict[str, dict[int, tuple[int, ...]]] = {}
        for place, one in enumerate(self.fields):
            shapes = [spec.fields[place].shape for spec in (*self.others, self)]
            sizes = {number: tuple(sizes) for number, sizes in enumerate(zip(*shapes, strict=True))}
            found[one.name] = {number: of for number, of in sizes.items() if len(set(of)) > 1}
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first field, without the batch."""
        return self.fields[0].shape

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record."""
        others = {"others": [one.to_dict() for one in self.others]} if self.others else {}
        return {"about": self.about, "fields": [asdict(field) for field in self.fields], **others}

    @staticmethod
    def of_dict(given: dict[str, Any]) -> "InputSpec":
        fields = (Field(**{**entry, "shape": tuple(entry["shape"])}) for entry in given["fields"])
        others = (InputSpec.of_dict(one) for one in given.get("others", ()))
        return InputSpec(tuple(fields), given["about"], tuple(others))

    def __str__(self) -> str:
        return ", ".join(f"{field.name} {'x'.join(map(str, field.shape))}" for field in self.fields)


@dataclass(frozen=True)
class Outputs:
    """What one network gives for one batch. What was not needed is None or empty."""

    logits: Tensor  # [B, K]
    embedding: Tensor | None = None  # [B, D], what the classifier reads
    # Each a map [B, C, H, W], shallow to deep, timm's order; or of a net that reads sequences each [B, L, D], 0 at
    # places that `mask` [B, L] hides (a bool that comes with such a net's outputs, needed or not).
    features: tuple[Tensor, ...] = ()
    mask: Tensor | None = None
    stem: Tensor | None = None  # [B, L, D], what the first layer of a transformer reads
    preacts: tuple[Tensor, ...] = ()  # each [B, C, H, W]: the stage's feature map before its last activation
    attention: tuple[Tensor, ...] = ()  # each [B, heads, queries, keys], rows sum to 1 (transformers)
    # Of every attention layer, each [B, heads, L, d] for L tokens. `attention` is softmax(Q K^T / sqrt(d) + mask).
    queries: tuple[Tensor, ...] = ()
    keys: tuple[Tensor, ...] = ()
    values: tuple[Tensor, ...] = ()
    norms: tuple[Tensor, ...] = ()  # each [2, C]: weight and bias of the batch norm before that last activation
    classifier: tuple[Tensor, Tensor] | None = None  # weight [K, D] and bias [K] of the last layer
    token_logits: Tensor | None = None  # [B, K]: the distillation token's head; `logits` average both
    pooled_map: Tensor | None = None  # [B, D, H, W], what is pooled for the classifier: after the last norm or conv
    # The same network's logits on Batch.views of that name; `peer`: those of a trainable twin of the student;
    # `batch_norms`: what a teacher gives with its batch norms in train mode (`teacher_norms: batch`).
    views: "dict[str, Outputs]" = field(default_factory=dict)

    NOT_PER_SAMPLE: ClassVar[tuple[str, ...]] = ("norms", "classifier")  # every other field is [B, ...]

    def map(self, change: Callable[[Tensor], Tensor], per_sample: bool = False) -> "Outputs":
        """The same outputs with `change` applied to every tensor; `per_sample`: to those that are [B, ...] alone."""

        def apply(name: str, value: Any) -> Any:
            if value is None or (per_sample and name in self.NOT_PER_SAMPLE):
                return value
            if isinstance(value, dict):
                return {view: outputs.map(change, per_sample) for view, outputs in value.items()}
            return tuple(change(v) for v in value) if isinstance(value, tuple) else change(value)

        return Outputs(**{f.name: apply(f.name, getattr(self, f.name)) for f in fields(self)})

    def __getattr__(self, name: str) -> Any:
        return view_of(self, name)


def view_of(of: "Outputs | Batch", name: str) -> Any:
    """`x.second` for `x.views["second"]`, None where it is not needed: how methods of version 0.1 read views."""
    if name not in (*VIEWS, "peer"):
        raise AttributeError(f"{type(of).__name__!r} object has no attribute {name!r}")
    return of.views.get(name)


NO_PROGRESS = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Blend:
    """Inputs that are mixed with one another (mixup, CutMix): the i-th is `share[i]` of itself, the rest of another."""

    partner: Tensor  # [B], int64, the other's place in the batch
    share: Tensor  # [B], 0..1


@dataclass(frozen=True)
class Batch:
    """One training batch, the same for every member of a cohort."""

    inputs: Inputs  # each [B, ...], augmented
    target: Tensor  # [B], int64; of inputs that are mixed the class of the larger share. Of numbers float32
    index: Tensor  # [B], int64, place in the training set
    progress: Tensor = NO_PROGRESS  # [], float64: the share of the training that is done, 0..1
    views: dict[str, Inputs] = field(default_factory=dict)  # other views of the same examples, by name (`VIEWS`)
    # [B, K], rows sum to 1: what the labels are where inputs are mixed or labels smoothed; else None. `labels` has
    # either. The view `second` is mixed as the inputs are, `plain` is not.
    soft: Tensor | None = None
    blend: Blend | None = None  # how the inputs were mixed, for who makes `soft`

    @property
    def labels(self) -> Tensor:
        """What `F.cross_entropy` takes: classes [B], or their mixture [B, K]."""
        return self.target if self.soft is None else self.soft

    @property
    def images(self) -> Any:
        """`inputs`, under the name that methods for pictures know."""
        return self.inputs

    def __getattr__(self, name: str) -> Any:
        return view_of(self, name)


@dataclass(frozen=True)
class Task:
    """What is to be learnt: all that a net, a method or a table must know of a data set.

    From `batch_size` on it says how it is trained; that is filled in where a method is built.
    """

    num_classes: int  # outputs of a net; 1 where numbers are learnt
    num_train: int  # examples in the training set; Batch.index is below it
    inputs: InputSpec
    num_test: int = 0
    classes: tuple[str, ...] = ()  # their names, where there are some
    metric: str = "top1"
    batch_size: int = 64
    targets: Tensor | None = None  # [num_train], the training labels (CRD draws its negatives from other classes)
    momentum: float = 0.9  # of the optimizer's SGD; 0 for an optimizer of another kind
    accumulate: int = 1  # batches whose gradients make one optimizer step
    mixed: bool = False  # are inputs mixed with one another, so that they have two labels?
    kind: str = "classes"  # what its targets are, one of `kdbench.method.kinds.KINDS`


EpochOf = Callable[[int], Iterator[tuple[Outputs, Batch]]]
Tensors = list[Tensor]


class Method(nn.Module):
    """One loss term. Subclasses take their settings as keyword arguments with defaults and type hints.

    A numeric setting is kept as an attribute of its own name and read in `forward`: then a suite may let it follow a
    schedule over the training, `temperature: {from: 8, to: 2}`.

    Set by `@register_method`: `name`, `needs`, `student_needs`, `paper`, `year`, `family`, `sequences`, `kinds`.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    student_needs: ClassVar[tuple[str, ...]]
    paper: ClassVar[str]
    year: ClassVar[int | None]
    family: ClassVar[str]
    sequences: ClassVar[bool]
    kinds: ClassVar[tuple[str, ...]] = ()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        """Make adapters from the shapes of a blank forward (B = 2). Raises `Inapplicable` if the pair can't have it."""

    def prepare(self, epoch_of: EpochOf) -> None:
        """Called once before training, if defined: for what must be learnt from the teacher alone (FT's paraphraser).

        `epoch_of(n)` yields the teacher's outputs and the batch for every batch of an n-th pass over the training set.
        """

    def infer(self, student: Outputs) -> Tensor | None:
        """Logits [B, K] of a student whose adapter stays at inference (SimKD); None (the default): the student's own.

        The student is then evaluated, counted and timed with what this method adds to it.
        """
        return None

    def combine(self, params: Tensors, task: Tensors, distilled: Tensors, optimizer: torch.optim.Optimizer) -> Tensors:
        """What the optimizer gets as gradients, if defined: a rule on gradients, not a loss (DOT).

        `params`: the parameters that both kinds of losses reach. `task`: their gradients of the losses on labels alone;
        `distilled`: of the losses that need the teacher. What a rule must remember it keeps in
        `optimizer.state[parameter]`, which is part of every checkpoint. Its `forward` gives no loss.
        """
        raise NotImplementedError

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses; the objective adds them up. Gradients must never reach `teacher`."""
        raise NotImplementedError


def one_label(task: Task, why: str) -> None:
    """For `build`. Raises Inapplicable where inputs are mixed, with what the method does with a label."""
    if task.mixed:
        raise Inapplicable(f"{why}: pictures that are mixed (mixup, cutmix) have two labels")

"""The contract between the engine and a method.

A method is one loss term between a frozen teacher and a student. It sees what both networks say about a batch
(`Outputs`), never the networks themselves, and answers with named scalars.

Shapes: B batch, K classes, D width of the embedding, C channels, H x W grid.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

# What a method may ask for with `needs=`. Only what some member of a cohort needs is computed.
# `second`, `mixed` and `plain` are logits on other views of the batch; `peer` is a second student that learns too.
VIEWS = ("second", "mixed", "plain")
NEEDS = (
    *("logits", "embedding", "features", "preacts", "norms", "attention", "classifier", "token_logits"),
    *(*VIEWS, "peer"),
)

# Ranges for settings: `def __init__(self, temperature: Positive = 4.0)`.
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# Stages are counted from the deep end (-1 is the last), or given as a fraction of depth (0.5 is half way).
Stage = Annotated[int, Field(lt=0)] | Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Inapplicable(Exception):
    """Raised by `Method.build` when a method has no meaning for a pair; the text says why."""


@dataclass(frozen=True)
class Outputs:
    """What one network says about one batch. What was not needed is None or empty."""

    logits: Tensor  # [B, K]
    embedding: Tensor | None = None  # [B, D], what the classifier reads
    features: tuple[Tensor, ...] = ()  # each [B, C, H, W], shallow to deep, timm's order
    preacts: tuple[Tensor, ...] = ()  # each [B, C, H, W]: the stage's feature map before its last activation
    attention: tuple[Tensor, ...] = ()  # each [B, heads, queries, keys], rows sum to 1 (transformers)
    norms: tuple[Tensor, ...] = ()  # each [2, C]: weight and bias of the batch norm before that last activation
    classifier: tuple[Tensor, Tensor] | None = None  # weight [K, D] and bias [K] of the last layer
    token_logits: Tensor | None = None  # [B, K]: the distillation token's head; `logits` average both
    second: "Outputs | None" = None  # the same network's logits on Batch.second,
    mixed: "Outputs | None" = None  # on Batch.mixed,
    plain: "Outputs | None" = None  # and on Batch.plain
    peer: "Outputs | None" = None  # the student's only: logits of a trainable twin with other initial weights

    def map(self, change: Any) -> "Outputs":
        """The same outputs with `change` applied to every tensor."""

        def apply(value: Any) -> Any:
            if isinstance(value, Outputs):
                return value.map(change)
            if isinstance(value, tuple):
                return tuple(change(v) for v in value)
            return None if value is None else change(value)

        return Outputs(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class Batch:
    """One training batch, the same for every member of a cohort."""

    images: Tensor  # [B, 3, H, W], 0..1, augmented
    target: Tensor  # [B], int64
    index: Tensor  # [B], int64, place in the training set
    progress: float  # share of the training that is done, 0..1
    # Other views of the same pictures, each [B, 3, H, W], None where no method needs them:
    second: Tensor | None = None  # another crop and flip, with strong colour changes
    mixed: Tensor | None = None  # `images` mixed up with their neighbours in the batch, in a share drawn from 0..1
    plain: Tensor | None = None  # without augmentation


@dataclass(frozen=True)
class Task:
    """What a memory bank or a margin must know about the job."""

    num_classes: int
    num_train: int  # pictures in the training set; Batch.index is below it
    input_size: tuple[int, int, int]  # C, H, W of one picture
    num_steps: int = 1  # optimizer steps in the whole training
    batch_size: int = 64
    targets: Tensor | None = None  # [num_train], the training labels (CRD draws its negatives from other classes)
    momentum: float = 0.9  # of the optimizer's SGD; 0 for an optimizer of another kind


EpochOf = Callable[[int], Iterator[tuple[Outputs, Batch]]]
Tensors = list[Tensor]


class Method(nn.Module):
    """One loss term. Subclasses take their settings as keyword arguments with defaults and type hints.

    A numeric setting is kept as an attribute of its own name and read in `forward`: then a suite may let it follow a
    schedule over the training, `temperature: {from: 8, to: 2}`.

    Set by `@register_method`: `name`, `needs`, `student_needs`, `paper`, `year`, `family`.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    student_needs: ClassVar[tuple[str, ...]]
    paper: ClassVar[str]
    year: ClassVar[int | None]
    family: ClassVar[str]

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

        `task`: the gradients of the losses on labels alone; `distilled`: of the losses that ask the teacher; both for
        the `params` that both reach. What a rule must remember it keeps in `optimizer.state[parameter]`, which is part
        of every checkpoint. Its `forward` gives no loss.
        """
        raise NotImplementedError

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Named scalar losses; the objective adds them up. Gradients must never reach `teacher`."""
        raise NotImplementedError


def is_rule(method: type[Method]) -> bool:
    """Does it give a rule on gradients instead of a loss?"""
    return method.combine is not Method.combine


def blank_batch(task: Task, device: torch.device | str = "cpu", size: int = 2) -> Batch:
    """A batch of grey pictures, for finding shapes."""
    images = torch.full((size, *task.input_size), 0.5, device=device)
    zeros = torch.zeros(size, dtype=torch.int64, device=device)
    return Batch(images, zeros, zeros, 0.0)

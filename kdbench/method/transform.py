"""The contract between the engine and a transform: something done to a student's net beside teaching it.

A `Reshape` is made before training and changes the net itself: pruning, low rank, the noise of a quantiser. What it
decided from the weights (which channels, which ranks) is its *record*, plain JSON, by which a file's shapes are built
again without those weights. A `Conversion` is made after training and changes the file that is delivered (ONNX).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, first_line
from kdbench.method.contract import Inapplicable, Inputs, InputSpec
from kdbench.registry import Registry, T

TRANSFORMS: Registry[Any] = Registry("transform")


@dataclass(frozen=True)
class Given:
    """What a reshape may look at beside the net's own module.

    `logits(inputs)`: the whole net's answer, [B, K]. `batches(n)`: some n training examples, as (inputs, target [B])
    in evaluation's form; the same in every objective. `keep`: modules that must stay as they are (the classifier).
    """

    inputs: InputSpec
    logits: Callable[[Inputs], Tensor]
    batches: Callable[[int], Iterator[tuple[Inputs, Tensor]]]
    keep: tuple[nn.Module, ...] = ()

    def device(self, model: nn.Module) -> torch.device:
        return next(model.parameters()).device


class Transform:
    """Subclasses take their settings as keyword arguments with defaults and type hints.

    Set by `@register_transform`: `name`, `paper`, `year`.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int | None]


class Reshape(Transform):
    """Before training. `files`: the conversions, by name and settings, that its student is delivered with."""

    files: ClassVar[tuple[tuple[str, dict[str, Any]], ...]] = ()

    def apply(self, model: nn.Module, given: Given) -> Any:
        """Change `model` in place and return the record (JSON). Raises `Inapplicable` where it would change nothing."""
        raise NotImplementedError

    def rebuild(self, model: nn.Module, record: Any, given: Given) -> None:
        """Give another net of this make the same shapes; its weights come from a file afterwards."""
        raise NotImplementedError

    def settle(self, model: nn.Module) -> None:
        """Called on a copy of the trained net before it is written to a file: leave what only training needs."""


class Conversion(Transform):
    """After training: an ONNX file becomes another one. `operators`: some of these must have run in a forward of it.

    `not_after`: conversions that leave it nothing to change.
    """

    operators: ClassVar[tuple[str, ...]] = ()
    not_after: ClassVar[tuple[str, ...]] = ()

    def check(self, model: nn.Module) -> None:
        """Raises `Inapplicable` for a net of which it would change nothing. Shapes only: weights may be on meta."""

    def apply(self, file: bytes, batches: Callable[[int], Iterator[dict[str, Any]]]) -> bytes:
        """`file`: an ONNX model; `batches(n)`: some n training examples as the numpy arrays [B, ...] of its inputs."""
        raise NotImplementedError


def register_transform(name: str, *, paper: str = "", year: int | None = None) -> Callable[[type[T]], type[T]]:
    """Class decorator that puts a `Reshape` or a `Conversion` under `name`."""

    def register(cls: type[T]) -> type[T]:
        if not issubclass(cls, Reshape | Conversion):
            raise UserError(f"transform {name!r} is neither a Reshape nor a Conversion")
        for key, value in {"name": name, "paper": paper, "year": year}.items():
            setattr(cls, key, value)
        TRANSFORMS.add(name, cls, cls.__init__)
        return cls

    return register


def layers(model: nn.Module, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> Iterator[tuple[str, nn.Module]]:
    """The modules of exactly these types, by name: a subclass may have a forward of its own.

    What lies in torch's own attention is left out, which reads its layers' weights and calls them not.
    """
    wanted = kinds if isinstance(kinds, tuple) else (kinds,)
    attention = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, nn.MultiheadAttention))
    for name, part in model.named_modules():
        if type(part) in wanted and not (attention and name.startswith(attention)):
            yield name, part


def runs(model: nn.Module, given: Given) -> None:
    """Raises `Inapplicable` where the net's own code does not go with its new shapes."""
    try:
        with torch.no_grad():
            given.logits(given.inputs.blank(2, given.device(model)))
    except Exception as error:
        raise Inapplicable(f"breaks {type(model).__name__}: {first_line(error)}") from error

"""Labels that are not to be read: those of a row that says `labels: none`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdbench.method.contract import Batch, Inapplicable, Outputs

# What may be asked of hidden labels: what they are, not which.
ABOUT: set[Any] = {getattr(getattr(Tensor, name), "__get__", None) for name in ("shape", "device", "dtype", "ndim")}
ABOUT |= {Tensor.size, Tensor.dim, Tensor.__len__}


class Hidden(Tensor):
    """Labels of which only shape, type and device can be read; whatever else is done with them raises Inapplicable."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ABOUT:
            return super().__torch_function__(func, types, args, kwargs or {})
        raise Inapplicable("reads labels; its row says `labels: none`")


def hidden(labels: Tensor) -> Tensor:
    """In their place: -1 everywhere, and not to be read."""
    return torch.full_like(labels, -1).as_subclass(Hidden)


def without_labels(batch: Batch) -> Batch:
    return replace(batch, target=hidden(batch.target), soft=None, blend=None)


def unlabelled(seen: Iterable[tuple[Outputs, Batch]]) -> Iterator[tuple[Outputs, Batch]]:
    """A pass over the training set without its labels."""
    for outputs, batch in seen:
        yield outputs, without_labels(batch)

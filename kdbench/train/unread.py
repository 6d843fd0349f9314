"""Labels that are not to be read: of a row with `labels: none`, or a method that does not know their kind; and examples
that have none."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kdbench.method.contract import Batch, Inapplicable, Outputs
from kdbench.method.inputs import map_inputs
from kdbench.method.kinds import kind_of

# What may be asked of hidden labels: what they are, not which.
ABOUT: set[Any] = {getattr(getattr(Tensor, name), "__get__", None) for name in ("shape", "device", "dtype", "ndim")}
ABOUT |= {Tensor.size, Tensor.dim, Tensor.__len__}


class Hidden(Tensor):
    """Labels of which only shape, type and device can be read; whatever else is done with them raises Inapplicable."""

    why: ClassVar[str] = "its row says `labels: none`"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ABOUT:
            return super().__torch_function__(func, types, args, kwargs or {})
        raise Inapplicable(f"reads labels; {cls.why}")


class Lacking(Hidden):
    """Those of data of which some examples have none."""

    why = "some examples of these data have none"


class Unknown(Hidden):
    """Numbers, for a method that says nothing of its `kinds`: it would take them for classes."""

    why = "these data have numbers, and it does not say that it is for them (`kinds`)"


def hidden(labels: Tensor, how: type[Hidden] = Hidden) -> Tensor:
    """In their place: -1 everywhere, and not to be read."""
    return torch.full_like(labels, -1).as_subclass(how)


def without_labels(batch: Batch, how: type[Hidden] = Hidden) -> Batch:
    return replace(batch, target=hidden(batch.target, how), soft=None, blend=None)


def unlabelled(seen: Iterable[tuple[Outputs, Batch]], how: type[Hidden] = Hidden) -> Iterator[tuple[Outputs, Batch]]:
    """A pass over the training set without its labels."""
    for outputs, batch in seen:
        yield outputs, without_labels(batch, how)


def lacks_some(labels: Tensor) -> bool:
    return bool(kind_of(labels).lacks(labels).any())


def labelled_rows(batch: Batch) -> Tensor:
    """The places [M] of a batch that have a label; of inputs that are mixed both must have one."""
    if batch.soft is not None:
        return (batch.soft.sum(1) > 1 - 1e-4).nonzero()[:, 0]  # the soft label of none is 0
    return (~kind_of(batch.target).lacks(batch.target)).nonzero()[:, 0]


def of_rows(student: Outputs, teacher: Outputs, batch: Batch, rows: Tensor) -> tuple[Outputs, Outputs, Batch]:
    """All of them for some places `rows` [M] of the batch alone."""
    soft = None if batch.soft is None else batch.soft[rows]
    views = {name: map_inputs(lambda x: x[rows], view) for name, view in batch.views.items()}
    inputs = map_inputs(lambda x: x[rows], batch.inputs)
    part = replace(batch, inputs=inputs, target=batch.target[rows], index=batch.index[rows], views=views)
    outputs = [x.map(lambda value: value[rows], per_sample=True) for x in (student, teacher)]
    return outputs[0], outputs[1], replace(part, soft=soft, blend=None)

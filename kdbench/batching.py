"""How an epoch is cut into batches, and a batch into the parts of several processes."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class Batching(Protocol):
    """How a training set is cut into batches (`Batches` of a suite's `train` is one)."""

    @property
    def batch_size(self) -> int: ...
    @property
    def augment(self) -> str | dict[str, Any]: ...


def steps_per_epoch(num_train: int, batch_size: int) -> int:
    """Every example is seen once an epoch; a last batch of a single one is left out (batch norm needs two)."""
    return -(-num_train // batch_size) - (num_train % batch_size == 1)


def shares(count: int, size: int) -> list[int]:
    """How many of `count` examples each of `size` processes has: as even as can be."""
    return [count // size + (rank < count % size) for rank in range(size)]


def parts(order: Tensor, batch_size: int, start: int = 0) -> Iterator[tuple[int, Tensor]]:
    """(number of the batch, its examples) of an epoch in the given order [N], from batch `start` on."""
    for step in range(start, steps_per_epoch(len(order), batch_size)):
        yield step, order[step * batch_size : (step + 1) * batch_size]

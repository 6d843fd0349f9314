"""The processes that train one cohort together. `ALONE` is the usual case, one process: every verb is the identity.

The loop speaks to its group at five places, and nowhere else knows how many processes there are.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from kdbench.method.contract import Outputs


class Group(Protocol):
    """`rank` of `size` processes."""

    rank: int
    size: int

    def gather(self, outputs: Outputs) -> Outputs:
        """The outputs on the whole batch, from those on each process's part of it; gradients reach each part."""
        ...

    def mean(self, params: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        ...

    def reduce(self, sums: Tensor) -> Tensor:
        """Sums over all processes."""
        ...

    def agree(self, stop: bool) -> bool:
        """Does any process want to stop?"""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def gather(self, outputs: Outputs) -> Outputs:
        return outputs

    def mean(self, params: Sequence[nn.Parameter]) -> None:
        pass

    def reduce(self, sums: Tensor) -> Tensor:
        return sums

    def agree(self, stop: bool) -> bool:
        return stop


ALONE = Alone()

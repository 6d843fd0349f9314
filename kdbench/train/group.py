"""The processes that train one cohort together, each with a part of every batch. `ALONE` is the usual case.

Losses are computed by every process, on the outputs of all: so a method that compares examples with each other sees
the whole batch, and is written as for one process. What is divided is the nets' forwards and backwards. Nowhere else
than in these verbs is it known how many processes there are.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from kdbench.data import Split
from kdbench.method.contract import Batch, Outputs
from kdbench.train.gradients import Gradients
from kdbench.train.whole_batch import PartNorms, parts_of

Compute = Callable[[Batch], Outputs]


class Group(Protocol):
    """`rank` of `size` processes. Each verb is called by all of them, at the same place of the program."""

    rank: int
    size: int

    def forward(self, compute: Compute, batch: Batch, norm_parts: int | None = None) -> Outputs:
        """What `compute` gives for the whole batch, each process having computed its part; gradients reach each part.

        Batch norms in train mode use the statistics of the whole batch, or of each of `norm_parts` of it.
        """
        ...

    def mean(self, gradients: Gradients) -> Gradients:
        """Each gradient's mean over the processes."""
        ...

    def agree(self, wish: bool) -> bool:
        """Does any process wish it?"""
        ...

    def share(self, make: Callable[[], bytes | None]) -> bytes | None:
        """What the first process makes; the others do not make it."""
        ...

    def raised(self, error: Exception) -> None:
        """This process goes on after an error, as all do that raised one here; if the others did not, all end."""
        ...


class Alone:
    """One process: every verb is the identity."""

    rank, size = 0, 1

    def forward(self, compute: Compute, batch: Batch, norm_parts: int | None = None) -> Outputs:
        with PartNorms(parts_of(len(batch.target), norm_parts)) if norm_parts else nullcontext():
            return compute(batch)

    def mean(self, gradients: Gradients) -> Gradients:
        return gradients

    def agree(self, wish: bool) -> bool:
        return wish

    def share(self, make: Callable[[], bytes | None]) -> bytes | None:
        return make()

    def raised(self, error: Exception) -> None:
        pass


ALONE = Alone()


def own_part(split: Split, group: Group) -> Split:
    """The split with those examples of each batch that this process's nets see, where it can leave out others."""
    make = getattr(split, "part", None)
    found: Split = make(group.rank, group.size) if make is not None and group.size > 1 else split
    return found

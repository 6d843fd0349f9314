"""Several nets on one pass of examples they did not train on, one after another on each batch.

What a net raises, or writes into what all share, is its own end alone.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from kdbench.method.contract import Batch
from kdbench.train.group import ALONE, Group
from kdbench.train.lent import Guard, Lent

Ask = Callable[[nn.Module, Batch], Tensor]
Keep = Callable[[int, Batch, Tensor], None]  # of which net, of which batch, what it gave
Found = TypeVar("Found")


class Spoilt(Exception):
    """The net at `place` wrote into the inputs: `error`. The others saw that, so their pass is void."""

    def __init__(self, place: int, error: Exception) -> None:
        super().__init__(str(error))
        self.place, self.error = place, error


def in_turn(
    nets: Sequence[nn.Module], batches: Iterable[Batch], ask: Ask, keep: Keep, group: Group = ALONE
) -> dict[int, Exception]:
    """`keep` what each net gives when asked for each batch; returns place -> what a net raised, where it did.

    Raises Spoilt, and what the data do.
    """
    broken: dict[int, Exception] = {}
    for batch in batches:
        lent = Lent({"the batch's inputs": batch.inputs})
        for place, net in enumerate(nets):
            if place in broken:
                continue
            guard = Guard(lent)
            try:
                with guard:
                    given = ask(net, batch)
                keep(place, batch, given)
            except Exception as error:
                group.raised(error)
                broken[place] = error
                if guard.spoilt:
                    raise Spoilt(place, error) from error
    return broken


def without(
    spoilt: Spoilt, nets: Sequence[nn.Module], again: Callable[[Sequence[nn.Module]], list[Found | Exception]]
) -> list[Found | Exception]:
    """What the pass gives `again` without the net that spoilt it, and that one's error in its place."""
    found = again([*nets[: spoilt.place], *nets[spoilt.place + 1 :]])
    return [*found[: spoilt.place], spoilt.error, *found[spoilt.place :]]

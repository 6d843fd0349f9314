"""Which batches make one optimizer step: one, or with `accumulate` several whose gradients add up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """Of the update that a batch is part of: how many batches it has, and is this its first, its last one?"""

    batches: int = 1
    begins: bool = True
    ends: bool = True


def update_of(step: int, steps_per_epoch: int, accumulate: int | None) -> Update:
    """The update of batch `step` (from 0, over all epochs). An epoch's last update has the batches that are left."""
    if accumulate is None:
        return Update()
    place = step % steps_per_epoch
    start = place - place % accumulate
    batches = min(accumulate, steps_per_epoch - start)
    return Update(batches, place == start, place == start + batches - 1)

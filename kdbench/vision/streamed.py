"""Pictures that do not lie in memory: each batch is made while the one before is trained on.

The order is drawn for the whole epoch as for pictures in memory, and so is the augmentation: the same batches to the
bit, however many threads make them, and from whatever step they start. What is past is not decoded.
"""

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from kdbench.batching import Batching, shares
from kdbench.method.contract import Batch
from kdbench.vision.augment import table_of
from kdbench.vision.batches import Pictures
from kdbench.vision.sources import CHUNK, in_turn, workers

AHEAD = 2  # batches that are made before they are asked for

Job = tuple[Callable[[], None], Tensor | None]  # makes some pictures of a batch; the batch if it is then whole


class Pixels(Protocol):
    """The pixels of pictures by number: a decoder, or a pack."""

    @property
    def side(self) -> int: ...

    def fill(self, places: Sequence[int], rows: np.ndarray) -> None:
        """The pictures `places` into rows [M, side, side, 3] uint8; several threads ask at once."""
        ...


@dataclass(frozen=True)
class Streamed(Pictures):
    """Of the pictures of `pixels` those at `places`, in this order. A batch is read once for all that train on it.

    In memory are at most `AHEAD` batches beside the current one, and a picture per thread while it is decoded.
    """

    pixels: Pixels
    places: Tensor  # [N] int64, on the CPU
    targets: Tensor  # [N] int64
    workers: int | None = None  # threads; None: as many as this process computes with
    share: tuple[int, int] | None = None  # (rank, size) of the process: it reads its part of each batch alone
    mirrored: bool = False  # and those that stand as far from the end, which mixing blends with its own

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.side, self.pixels.side

    def to(self, device: torch.device) -> Self:
        return replace(self, targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, places=self.places[index.cpu()], targets=self.targets[index])

    def part(self, rank: int, size: int) -> Self:
        """The same batches, of which all pictures but this process's part may be black; labels are all there."""
        return replace(self, share=(rank, size))

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        if self.share is None:
            return super().epoch(how, seed, number, start, views)
        table = table_of(how.augment)
        mixes = table is not None and (table.mixup is not None or table.cutmix is not None)
        own = replace(self, share=None if "mixed" in views else self.share, mirrored=mixes)
        return Pictures.epoch(own, how, seed, number, start, views)

    def runs(self, count: int) -> list[tuple[int, int]]:
        """From where to where a batch of so many pictures is read."""
        if self.share is None:
            return [(0, count)]
        rank, size = self.share
        sizes = shares(count, size)
        start, stop = sum(sizes[:rank]), sum(sizes[: rank + 1])
        low, high = sorted([(start, stop), (count - stop, count - start)]) if self.mirrored else [(start, stop)] * 2
        return [(low[0], max(low[1], high[1]))] if high[0] <= low[1] else [low, high]

    def read(self, parts: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        yield from self._read(self._jobs(parts), max([len(part) for part in parts[:1]], default=0))

    def _read(self, jobs: Iterator[Job], size: int) -> Generator[Tensor, None, None]:
        """The batches, of `size` pictures each, that come of the jobs."""
        threads = self.workers or workers()
        for batch in in_turn(_done, jobs, threads, max(2 * threads, AHEAD * -(-size // CHUNK))):
            if batch is not None:
                yield batch.to(self.targets.device, non_blocking=True)

    def _jobs(self, parts: Sequence[Tensor]) -> Iterator[Job]:
        for part in parts:
            places, batch = self.places[part].tolist(), self._blank(len(part))
            for chunk, whole in self._chunks(places):
                yield partial(fill, self.pixels, places[chunk], batch[chunk].numpy()), batch if whole else None

    def _chunks(self, places: Sequence[int]) -> Iterator[tuple[slice, bool]]:
        """What is read in one go of a batch's pictures, and whether it is the last; one at least, maybe of none."""
        runs = self.runs(len(places))
        found = [slice(a + c.start, a + c.stop) for a, b in runs for c in chunks(places[a:b])] or [slice(0, 0)]
        yield from ((chunk, chunk is found[-1]) for chunk in found)

    def _blank(self, *counts: int) -> Tensor:
        """[..., side, side, 3], to be filled."""
        make = torch.empty if self.share is None else torch.zeros
        return make(*counts, *self.size, 3, dtype=torch.uint8, pin_memory=self.targets.is_cuda)


def chunks(places: Sequence[int]) -> Iterator[slice]:
    """Of some pictures each; what stands side by side as the same picture (`repeats`) stays together."""
    start = 0
    while start < len(places):
        stop = min(start + CHUNK, len(places))
        while stop < len(places) and places[stop] == places[stop - 1]:
            stop += 1
        yield slice(start, stop)
        start = stop


def fill(pixels: Pixels, places: Sequence[int], rows: np.ndarray) -> None:
    """Each picture is read once, how often it may stand there."""
    different = list(dict.fromkeys(places))
    if len(different) == len(places):
        pixels.fill(places, rows)
        return
    once = np.empty((len(different), *rows.shape[1:]), np.uint8)
    pixels.fill(different, once)
    rows[...] = once[[different.index(place) for place in places]]


def _done(job: Job) -> Tensor | None:
    make, batch = job
    make()
    return batch

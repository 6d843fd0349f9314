"""Training pictures whose way to their size is another where nets are judged by them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kdbench.batching import Batching
from kdbench.data import Split
from kdbench.method.contract import Batch, InputSpec
from kdbench.vision.streamed import Streamed


@dataclass(frozen=True)
class Learnt:
    """A `kdbench.data.Split`: epochs are of `pictures`; `seen`, the same ones with the evaluation crop, in their order.

    So held out pictures are judged as test pictures are, and so are the embeddings that a probe is fitted to. `seen`
    are decoded whenever they are asked for: as long as nothing is held out, nobody does while nets train.
    """

    pictures: Split
    seen: Streamed

    @property
    def targets(self) -> Tensor:
        return self.pictures.targets

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def inputs(self) -> InputSpec:
        return self.pictures.inputs

    def to(self, device: torch.device) -> Self:
        return type(self)(self.pictures.to(device), self.seen.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return type(self)(self.pictures[index], self.seen[index])

    def part(self, rank: int, size: int) -> Self:
        """As of `Streamed`, where it can be."""
        make = getattr(self.pictures, "part", None)
        return type(self)(make(rank, size) if make else self.pictures, self.seen.part(rank, size))

    def steps(self, how: Batching) -> int:
        return self.pictures.steps(how)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        return self.pictures.epoch(how, seed, number, start, views)

    def in_order(self, size: int) -> Iterator[Batch]:
        return self.seen.in_order(size)

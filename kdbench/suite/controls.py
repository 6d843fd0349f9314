"""Control teachers: in the place of a pair's teacher one that knows nothing of the task, or nothing true.

    kd, untrained: {ce: 0.1, kd: 0.9, teacher: untrained}

What a row gains from its control is no knowledge of the teacher's: it is the regularisation that the loss brings. A
control has the teacher's make and is never read from a checkpoint. Another one is an entry of `CONTROLS`.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from kdbench.batching import Batching
from kdbench.data import Split, Splits
from kdbench.method.contract import Batch, InputSpec
from kdbench.seeding import derive


@dataclass(frozen=True)
class Relabelled:
    """A `Split` whose examples have other labels."""

    split: Any  # a Split
    targets: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def inputs(self) -> InputSpec:
        return self.split.inputs

    def to(self, device: torch.device) -> Self:
        return replace(self, split=self.split.to(device), targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, split=self.split[index], targets=self.targets[index])

    def steps(self, how: Batching) -> int:
        return self.split.steps(how)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        for batch in self.split.epoch(how, seed, number, start, views):
            yield replace(batch, target=self.targets[batch.index])

    def in_order(self, size: int) -> Iterator[Batch]:
        for batch in self.split.in_order(size):
            yield replace(batch, target=self.targets[batch.index])


def shuffled(split: Split, seed: int) -> Relabelled:
    """The labels go round among the examples: as many of each class as before, and none for a reason."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(derive("shuffled labels", seed)))
    return Relabelled(split, split.targets[order.to(split.targets.device)])


@dataclass(frozen=True)
class Control:
    """`words`: what it is, in tables. `relabel(train, seed)`: the `Split` it learns from; None: it learns nothing."""

    words: str
    relabel: Callable[[Any, int], Any] | None = None

    def splits(self, splits: Splits, seed: int) -> Splits:
        """What it is trained on; what it is judged by has true labels."""
        return splits if self.relabel is None else replace(splits, train=self.relabel(splits.train, seed))


CONTROLS = {
    "untrained": Control("an untrained teacher"),
    "shuffled_labels": Control("a teacher trained on shuffled labels", shuffled),
}

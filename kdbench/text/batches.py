"""Texts as numbers, in memory; and the batches of an epoch, padded by buckets of length.

A batch is padded to the smallest bucket that holds its longest text: a quarter, a half, three quarters or all of the
longest length. Few shapes, so that each is proven on this machine before it is trusted. The order of the texts, which
of them share a batch and the order of the batches depend on (seed, epoch) alone.

Shapes: N texts, B in a batch, L places.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from kdbench.batching import Batching, steps_per_epoch
from kdbench.errors import UserError
from kdbench.method.contract import Batch, Field, Inputs, InputSpec
from kdbench.seeding import derive

AUGMENTS = ("none",)
POOL = 32  # batches that are sorted by length together: 9 in 10 places then hold a word where lengths are spread evenly
HIDDEN = 0.15  # of the places of a text: BERT's share of hidden words (https://arxiv.org/abs/1810.04805)
TIMED = (32, 128)  # places at which every net of texts is measured, whatever its data set's length
SUFFIXES = ("", "_2")  # of the names under which a first and a second tokenizer's numbers stand in a batch


@dataclass(frozen=True)
class Reading:
    """All texts as one tokenizer reads them."""

    ids: Tensor  # [N, L] int32, `pad` from a text's length on
    lengths: Tensor  # [N] int64, on the CPU wherever `ids` lies: the loop waits for no device
    segments: Tensor | None  # [N, L] uint8: 1 in the second text of a pair; None where there are no pairs
    vocabulary: int  # all ids are below it
    pad: int = 0
    words: str = ""  # what tells the tokenizer from others
    hidden: int | None = None  # the id that stands for a hidden word, where there is one
    ends: tuple[int, ...] = ()  # ids that frame a text: never hidden

    @property
    def longest(self) -> int:
        return self.ids.shape[1]

    def to(self, device: torch.device) -> Self:
        segments = self.segments.to(device) if self.segments is not None else None
        return replace(self, ids=self.ids.to(device), segments=segments)

    def __getitem__(self, index: Tensor) -> Self:
        segments = self.segments[index] if self.segments is not None else None
        return replace(self, ids=self.ids[index], lengths=self.lengths[index.cpu()], segments=segments)

    def inputs(self, suffix: str) -> dict[str, Tensor]:
        """[B, L] each, L the bucket of the longest: `ids`, `mask` (1 where there is a text), `segments`."""
        places = bucket(int(self.lengths.max()), self.longest)
        given = {f"ids{suffix}": self.ids[:, :places].long(), f"mask{suffix}": self.mask(places)}
        if self.segments is not None:
            given[f"segments{suffix}"] = self.segments[:, :places].long()
        return given

    def mask(self, places: int) -> Tensor:  # -> [B, L] int64
        lengths = self.lengths.to(self.ids.device, non_blocking=True)
        return (torch.arange(places, device=self.ids.device) < lengths[:, None]).long()

    def fields(self, suffix: str, places: int) -> tuple[Field, ...]:
        ids = Field(f"ids{suffix}", (places,), "int64", 0, self.vocabulary)
        mask = Field(f"mask{suffix}", (places,), "int64", 1, 2)
        segments = (Field(f"segments{suffix}", (places,), "int64", 0, 2),) if self.segments is not None else ()
        return ids, mask, *segments

    def hiding(self, generator: torch.Generator) -> Self:
        """Another view: 15% of the words hidden. Raises UserError where no id stands for a hidden one."""
        if self.hidden is None:
            raise UserError("this tokenizer has no sign for a hidden word, so texts have no second view")
        drawn = (torch.rand(self.ids.shape, generator=generator) < HIDDEN).to(self.ids.device)
        for end in (*self.ends, self.pad):
            drawn &= self.ids != end
        return replace(self, ids=self.ids.masked_fill(drawn, self.hidden))


def bucket(length: int, longest: int) -> int:
    """The smallest of the four buckets that holds `length` places."""
    return next((size for size in buckets(longest) if size >= length), longest)


def buckets(longest: int) -> list[int]:
    """Quarters of the longest length, each a multiple of 8 where that is large enough."""
    step = 8 if longest >= 32 else 1
    return sorted({min(-(-longest * part // (4 * step)) * step, longest) for part in (1, 2, 3, 4)})


@dataclass(frozen=True)
class Texts:
    """N texts with their labels: a `kdbench.data.Split` that lies whole in memory, in one or two readings."""

    readings: tuple[Reading, ...]
    targets: Tensor  # [N] int64; float32 where numbers are learnt

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def inputs(self) -> InputSpec:
        """Of the longest texts; the shorter buckets are `others`, and `timed` of lengths that papers report."""
        sizes = [buckets(reading.longest) for reading in self.readings]
        *others, whole = (self._spec([of[min(part, len(of) - 1)] for of in sizes]) for part in range(4))
        others = list(dict.fromkeys(one for one in others if one.fields != whole.fields))
        timed = [self._spec([length] * len(sizes)) for length in TIMED]
        made_by = tuple(reading.words for reading in self.readings)
        new = tuple(one for one in timed if one not in others)
        return replace(whole, others=tuple(others), timed=new, made_by=made_by if all(made_by) else ())

    def _spec(self, places: Sequence[int]) -> InputSpec:
        """Of texts of so many places by each reading."""
        fields: list[Field] = []
        for reading, suffix, count in zip(self.readings, SUFFIXES, places, strict=False):
            fields += reading.fields(suffix, count)
        return InputSpec(tuple(fields), "ids [batch, L] of a tokenizer, and a mask that is 1 where there is a word")

    def to(self, device: torch.device) -> Self:
        return replace(self, readings=tuple(r.to(device) for r in self.readings), targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, readings=tuple(r[index] for r in self.readings), targets=self.targets[index])

    def steps(self, how: Batching) -> int:
        return steps_per_epoch(len(self), how.batch_size)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        if strange := sorted(set(views) - {"plain", "second"}):
            raise UserError(f"texts can't be mixed, so they have no view {strange[0]!r}")
        generator = torch.Generator().manual_seed(derive("batches", seed, number))
        for step, index in enumerate(self.order(how.batch_size, generator)[start:], start):
            part = self[index.to(self.targets.device)]
            others: dict[str, Inputs] = {view: part._view(view, seed, number, step) for view in sorted(views)}
            yield Batch(part._inputs(), part.targets, index.to(self.targets.device), views=others)

    def order(self, size: int, generator: torch.Generator) -> list[Tensor]:
        """The texts of each batch. What is left over of full batches is drawn first, of texts of all lengths."""
        drawn = torch.randperm(len(self), generator=generator)
        rest, drawn = drawn[: len(self) % size], drawn[len(self) % size :]
        lengths = torch.stack([reading.lengths for reading in self.readings]).amax(0)
        batches: list[Tensor] = []
        for pool in drawn.split(POOL * size):
            batches += pool[lengths[pool].argsort(stable=True)].split(size)
        mixed = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        return mixed + ([rest] if len(rest) > 1 else [])

    def _inputs(self) -> dict[str, Tensor]:
        given: dict[str, Tensor] = {}
        for reading, suffix in zip(self.readings, SUFFIXES, strict=False):
            given |= reading.inputs(suffix)
        return given

    def _view(self, view: str, seed: int, number: int, step: int) -> Inputs:
        if view == "plain":
            return self._inputs()
        generator = torch.Generator().manual_seed(derive(f"{view} view", seed, number, step))
        return replace(self, readings=tuple(r.hiding(generator) for r in self.readings))._inputs()

    def in_order(self, size: int) -> Iterator[Batch]:
        for index in torch.arange(len(self)).split(size):
            places = index.to(self.targets.device)
            part: Any = self[places]
            yield Batch(part._inputs(), part.targets, places)

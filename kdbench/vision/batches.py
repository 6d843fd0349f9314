"""The batches of an epoch of pictures, wherever their pixels come from; and pictures that lie whole on the device.

Augmentation is integer arithmetic on whole batches: every picture has its own crop and flip, drawn for the whole
epoch at once from (seed, epoch) on the CPU, so that any device, any source of pixels and any later run sees the same
pictures.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kdbench.batching import Batching, parts, steps_per_epoch
from kdbench.errors import UserError, unknown
from kdbench.method.contract import Batch, Field, Inputs, InputSpec, Task
from kdbench.seeding import derive
from kdbench.vision.augment import Augment, table_of
from kdbench.vision.crops import shifted, to_float
from kdbench.vision.mixing import with_neighbours

AUGMENTS = ("none", "flip", "crop", "crop_flip")


def pictures(height: int, width: int) -> InputSpec:
    """Colour pictures [B, 3, H, W] with values in 0..1."""
    return InputSpec(
        (Field("images", (3, height, width)),), "pictures [batch, 3, H, W] in 0..1; normalisation is inside"
    )


def picture_task(num_classes: int, side: int, num_train: int = 1000, num_test: int = 1000) -> Task:
    """What there is to learn from square pictures, before they are there."""
    return Task(num_classes, num_train, pictures(side, side), num_test)


@dataclass(frozen=True)
class Draws:
    """What an epoch drew: the order of the pictures [N], and by place in it their shifts [N, 2] and flips [N].

    The order is on the CPU, where who decodes pictures needs it.
    """

    order: Tensor
    shift: Tensor
    flip: Tensor


class Pictures(ABC):
    """N pictures of one size with their labels: all of a `kdbench.data.Split` but where the pixels come from.

    `crop` shifts by up to an eighth of the side with black borders (4 pixels at 32); `flip` mirrors half the pictures.
    """

    targets: Tensor  # [N] int64, on the device

    @abstractmethod
    def read(self, parts: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        """The pixels [B, H, W, C] uint8 on the device (C = 1 or 3) of each part's pictures, places [B] on the CPU."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width."""

    @abstractmethod
    def to(self, device: torch.device) -> Self: ...

    @abstractmethod
    def __getitem__(self, index: Tensor) -> Self: ...

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def inputs(self) -> InputSpec:
        """Grey pictures become three equal channels in the batch."""
        return pictures(*self.size)

    def in_order(self, size: int) -> Iterator[Batch]:
        parts = torch.arange(len(self)).split(size)
        with closing(self.read(parts)) as read:
            for index, pixels in zip(parts, read, strict=True):
                places = index.to(self.targets.device)
                yield Batch(to_float(pixels), self.targets[places], places)

    def steps(self, how: Batching) -> int:
        return steps_per_epoch(len(self), how.batch_size)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        table = table_of(how.augment)
        if table is not None:
            return self._by_table(table, how.batch_size, (seed, number), start, views)
        if how.augment not in AUGMENTS:
            raise UserError(unknown("augmentation", how.augment, AUGMENTS))
        return self._by_word(str(how.augment), how.batch_size, (seed, number), start, views)

    def _by_word(
        self, augment: str, size: int, place: tuple[int, int], start: int, views: Collection[str]
    ) -> Iterator[Batch]:
        draws = self.draw(augment, *place)
        for step, index, pixels in self._pixels(draws.order, size, start):
            part = slice(step * size, step * size + len(index))
            images = self._cut(pixels, draws.shift[part], draws.flip[part], augment)
            others: dict[str, Inputs] = {
                view: self._view(view, augment, (*place, step), pixels, images) for view in sorted(views)
            }
            yield Batch(images, self.targets[index], index, views=others)

    def _by_table(
        self, table: Augment, size: int, place: tuple[int, int], start: int, views: Collection[str]
    ) -> Iterator[Batch]:
        order = table.order(len(self), torch.Generator().manual_seed(derive("batches", *place)))
        for step, index, pixels in self._pixels(order, size, start):
            images, others, blend = table.inputs(pixels, (*place, step), views)
            yield Batch(images, self.targets[index], index, views=others, blend=blend)

    def _pixels(self, order: Tensor, size: int, start: int) -> Generator[tuple[int, Tensor, Tensor], None, None]:
        """(number of the batch, its pictures' places, their pixels) from batch `start` on, on the device."""
        batches = list(parts(order, size, start))
        with closing(self.read([index for _, index in batches])) as read:
            for (step, index), pixels in zip(batches, read, strict=True):
                yield step, index.to(self.targets.device), pixels

    def draw(self, augment: str, seed: int, number: int) -> Draws:
        """Order, shifts and flips of epoch `number`."""
        generator = torch.Generator().manual_seed(derive("batches", seed, number))
        order = torch.randperm(len(self), generator=generator)
        return Draws(order, *self._shift_and_flip(len(self), augment, generator))

    def _shift_and_flip(self, count: int, augment: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = self.targets.device
        shift = torch.randint(0, 2 * self._pad(augment) + 1, (count, 2), generator=generator).to(device)
        return shift, (torch.rand(count, generator=generator) < 0.5).to(device) & ("flip" in augment)

    def _pad(self, augment: str) -> int:
        return max(self.size[0] // 8, 1) if "crop" in augment else 0

    def _view(self, view: str, augment: str, place: tuple[int, int, int], pixels: Tensor, images: Tensor) -> Tensor:
        """`place`: seed, epoch and step; `pixels` and `images`: of the batch, before and after augmentation."""
        if view == "plain":  # without augmentation
            return to_float(pixels)
        generator = torch.Generator().manual_seed(derive(f"{view} view", *place))
        if view == "mixed":
            return with_neighbours(images, generator)
        return self._second(pixels, augment, generator)

    def _second(self, pixels: Tensor, augment: str, generator: torch.Generator) -> Tensor:
        """Another crop and flip, then brightness, contrast and saturation by up to 40%, and a square cut out."""
        count, device = len(pixels), pixels.device
        shift, flip = self._shift_and_flip(count, augment, generator)
        strength = (0.6 + 0.8 * torch.rand(3, count, 1, 1, 1, generator=generator)).to(device)
        corner = torch.rand(2, count, 1, 1, 1, generator=generator).to(device)
        images = self._cut(pixels, shift, flip, augment) * strength[0]
        images = images.mean((1, 2, 3), keepdim=True).lerp(images, strength[1])
        images = images.mean(1, keepdim=True).lerp(images, strength[2]).clamp(0, 1)
        height, width = images.shape[-2:]
        row = torch.arange(height, device=device)[:, None] / height - 0.75 * corner[0]
        column = torch.arange(width, device=device) / width - 0.75 * corner[1]
        hole = (row >= 0) & (row < 0.25) & (column >= 0) & (column < 0.25)
        return images.masked_fill(hole, 0.5)

    def _cut(self, pixels: Tensor, shift: Tensor, flip: Tensor, augment: str) -> Tensor:
        return to_float(shifted(pixels, shift, flip, self._pad(augment)))


@dataclass(frozen=True)
class Images(Pictures):
    """Pictures that lie whole in memory, on the device."""

    pixels: Tensor  # [N, H, W, C] uint8, C = 1 or 3
    targets: Tensor  # [N] int64

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[2]

    def read(self, parts: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        for index in parts:
            yield self.pixels[index.to(self.pixels.device)]

    def to(self, device: torch.device) -> Self:
        return replace(self, pixels=self.pixels.to(device), targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, pixels=self.pixels[index], targets=self.targets[index])

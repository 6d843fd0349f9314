"""Pictures in memory, on the device, as uint8; and the batches of an epoch.

Augmentation is integer arithmetic on whole batches: every picture has its own crop and flip, drawn for the whole
epoch at once from (seed, epoch) on the CPU, so that any device and any later run sees the same pictures.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data import Batching, parts, steps_per_epoch
from kdbench.errors import UserError, unknown
from kdbench.method.contract import Batch, Field, Inputs, InputSpec, Task
from kdbench.seeding import derive

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
    """What an epoch drew: the order of the pictures [N], and by place in it their shifts [N, 2] and flips [N]."""

    order: Tensor
    shift: Tensor
    flip: Tensor


@dataclass(frozen=True)
class Images:
    """N pictures of one size with their labels: a `kdbench.data.Split` that lies whole in memory.

    `crop` shifts by up to an eighth of the side with black borders (4 pixels at 32); `flip` mirrors half the pictures.
    """

    pixels: Tensor  # [N, H, W, C] uint8, C = 1 or 3
    targets: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def inputs(self) -> InputSpec:
        """Grey pictures become three equal channels in the batch."""
        return pictures(self.pixels.shape[1], self.pixels.shape[2])

    def to(self, device: torch.device) -> Self:
        return replace(self, pixels=self.pixels.to(device), targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, pixels=self.pixels[index], targets=self.targets[index])

    def in_order(self, size: int) -> Iterator[Batch]:
        places = torch.arange(len(self), device=self.targets.device)
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Batch(to_float(self.pixels[part]), self.targets[part], places[part])

    def steps(self, how: Batching) -> int:
        return steps_per_epoch(len(self), how.batch_size)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        if how.augment not in AUGMENTS:
            raise UserError(unknown("augmentation", how.augment, AUGMENTS))
        draws = self.draw(how.augment, seed, number)
        for step, index in parts(draws.order, how.batch_size, start):
            part = slice(step * how.batch_size, step * how.batch_size + len(index))
            images = self._cut(index, draws.shift[part], draws.flip[part], how.augment)
            others: dict[str, Inputs] = {
                view: self._view(view, how.augment, seed, number, step, index, images) for view in sorted(views)
            }
            yield Batch(images, self.targets[index], index, views=others)

    def draw(self, augment: str, seed: int, number: int) -> Draws:
        """Order, shifts and flips of epoch `number`."""
        device, count = self.targets.device, len(self)
        generator = torch.Generator().manual_seed(derive("batches", seed, number))
        order = torch.randperm(count, generator=generator)
        return Draws(order.to(device), *self._shift_and_flip(count, augment, generator))

    def _shift_and_flip(self, count: int, augment: str, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        device = self.targets.device
        shift = torch.randint(0, 2 * self._pad(augment) + 1, (count, 2), generator=generator).to(device)
        return shift, (torch.rand(count, generator=generator) < 0.5).to(device) & ("flip" in augment)

    def _pad(self, augment: str) -> int:
        return max(self.pixels.shape[1] // 8, 1) if "crop" in augment else 0

    def _view(
        self, view: str, augment: str, seed: int, number: int, step: int, index: Tensor, images: Tensor
    ) -> Tensor:
        if view == "plain":  # without augmentation
            return to_float(self.pixels[index])
        generator = torch.Generator().manual_seed(derive(f"{view} view", seed, number, step))
        if view == "mixed":  # each picture with its neighbour (a batch is in random order), all in one share
            return images.lerp(images.roll(1, 0), float(torch.rand((), generator=generator)))
        return self._second(index, augment, generator)

    def _second(self, index: Tensor, augment: str, generator: torch.Generator) -> Tensor:
        """Another crop and flip, then brightness, contrast and saturation by up to 40%, and a square cut out."""
        count, device = len(index), index.device
        shift, flip = self._shift_and_flip(count, augment, generator)
        strength = (0.6 + 0.8 * torch.rand(3, count, 1, 1, 1, generator=generator)).to(device)
        corner = torch.rand(2, count, 1, 1, 1, generator=generator).to(device)
        images = self._cut(index, shift, flip, augment) * strength[0]
        images = images.mean((1, 2, 3), keepdim=True).lerp(images, strength[1])
        images = images.mean(1, keepdim=True).lerp(images, strength[2]).clamp(0, 1)
        height, width = images.shape[-2:]
        row = torch.arange(height, device=device)[:, None] / height - 0.75 * corner[0]
        column = torch.arange(width, device=device) / width - 0.75 * corner[1]
        hole = (row >= 0) & (row < 0.25) & (column >= 0) & (column < 0.25)
        return images.masked_fill(hole, 0.5)

    def _cut(self, index: Tensor, shift: Tensor, flip: Tensor, augment: str) -> Tensor:
        """Pictures `index` [B], each with its own shift [B, 2] and flip [B]: [B, 3, H, W]."""
        _, height, width, _ = self.pixels.shape
        rows = torch.arange(height, device=index.device)[None] + shift[:, :1]  # [B, H]
        columns = torch.arange(width, device=index.device)[None].expand(len(index), -1)  # [B, W]
        columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift[:, 1:]
        source = self._padded if self._pad(augment) else self.pixels
        return to_float(source[index[:, None, None], rows[:, :, None], columns[:, None, :]])

    @cached_property
    def _padded(self) -> Tensor:
        """With a black border for crops: [N, H + 2p, W + 2p, C]."""
        pad = self._pad("crop")
        return F.pad(self.pixels, (0, 0, pad, pad, pad, pad))


def to_float(pixels: Tensor) -> Tensor:
    """[B, H, W, C] uint8 -> [B, 3, H, W] float in 0..1, in channels_last memory."""
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    if images.shape[1] == 3:
        return images
    return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

"""Pictures in memory, on the device, as uint8; and the batches of an epoch.

Augmentation is integer arithmetic on whole batches: every picture has its own crop and flip, drawn for the whole
epoch at once from (seed, epoch) on the CPU, so that any device and any later run sees the same pictures.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.method.contract import Batch
from kdbench.seeding import derive

AUGMENTS = ("none", "flip", "crop", "crop_flip")


@dataclass(frozen=True)
class Images:
    """N pictures of one size with their labels."""

    pixels: Tensor  # [N, H, W, C] uint8, C = 1 or 3
    targets: Tensor  # [N] int64

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(3, H, W): grey pictures become three equal channels in the batch."""
        return 3, self.pixels.shape[1], self.pixels.shape[2]

    def to(self, device: torch.device) -> "Images":
        return Images(self.pixels.to(device), self.targets.to(device))

    def __getitem__(self, index: Tensor) -> "Images":
        return Images(self.pixels[index], self.targets[index])

    def plain(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Pictures start..stop without augmentation: [B, 3, H, W] in 0..1 and [B]."""
        return to_float(self.pixels[start:stop]), self.targets[start:stop]


@dataclass(frozen=True)
class Splits:
    """A data set. `validation` is None until some of the training set is held out."""

    train: Images
    test: Images
    num_classes: int
    validation: Images | None = None
    classes: tuple[str, ...] = ()  # their names, where there are some

    @property
    def input_size(self) -> tuple[int, int, int]:
        return self.train.input_size

    def to(self, device: torch.device) -> "Splits":
        validation = self.validation.to(device) if self.validation else None
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)


def to_float(pixels: Tensor) -> Tensor:
    """[B, H, W, C] uint8 -> [B, 3, H, W] float in 0..1, in channels_last memory."""
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    return (
        images if images.shape[1] == 3 else images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    )


class Loader:
    """The training batches of every epoch: order and augmentation depend on (seed, epoch) only.

    Every picture is seen once an epoch; a last batch of a single picture is left out (batch norm needs two).
    `crop` shifts by up to an eighth of the side with black borders (4 pixels at 32); `flip` mirrors half the pictures.
    """

    def __init__(self, images: Images, batch_size: int, augment: str, seed: int) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.crop, self.flip = "crop" in augment, "flip" in augment
        self.pad = max(images.pixels.shape[1] // 8, 1) if self.crop else 0
        self.padded = F.pad(images.pixels, (0, 0, self.pad, self.pad, self.pad, self.pad))  # [N, H+2p, W+2p, C]
        self.steps = (len(images) + batch_size - 1) // batch_size - (len(images) % batch_size == 1)

    def epoch(self, epoch: int) -> "Epoch":
        return Epoch(self, epoch)


class Epoch:
    """One epoch's draws; `batch(step)` may be asked for in any order."""

    def __init__(self, loader: Loader, epoch: int) -> None:
        self.loader, self.number = loader, epoch
        device, count = loader.images.pixels.device, len(loader.images)
        generator = torch.Generator().manual_seed(derive("batches", loader.seed, epoch))
        self.order = torch.randperm(count, generator=generator).to(device)
        self.shift = torch.randint(0, 2 * loader.pad + 1, (count, 2), generator=generator).to(device)
        self.flip = (torch.rand(count, generator=generator) < 0.5).to(device) & loader.flip

    def batch(
        self, step: int, progress: float, second: bool = False, mixed: bool = False, plain: bool = False
    ) -> Batch:
        """Batch `step` of the epoch; with those of its other views that are asked for."""
        loader = self.loader
        part = slice(step * loader.batch_size, (step + 1) * loader.batch_size)
        index = self.order[part]
        images = self._cut(index, self.shift[part], self.flip[part])
        return Batch(
            images,
            loader.images.targets[index],
            index,
            progress,
            second=self._second(step, index) if second else None,
            mixed=self._mixed(step, images) if mixed else None,
            plain=to_float(loader.images.pixels[index]) if plain else None,
        )

    def _mixed(self, step: int, images: Tensor) -> Tensor:
        """Each picture with its neighbour (a batch is in random order), both in one share per batch, from 0..1."""
        generator = torch.Generator().manual_seed(derive("mixed view", self.loader.seed, self.number, step))
        return images.lerp(images.roll(1, 0), float(torch.rand((), generator=generator)))

    def _second(self, step: int, index: Tensor) -> Tensor:
        """Another crop and flip, then brightness, contrast and saturation by up to 40%, and a square cut out."""
        loader, count, device = self.loader, len(index), index.device
        generator = torch.Generator().manual_seed(derive("second view", loader.seed, self.number, step))
        shift = torch.randint(0, 2 * loader.pad + 1, (count, 2), generator=generator).to(device)
        flip = (torch.rand(count, generator=generator) < 0.5).to(device) & loader.flip
        strength = (0.6 + 0.8 * torch.rand(3, count, 1, 1, 1, generator=generator)).to(device)
        corner = torch.rand(2, count, 1, 1, 1, generator=generator).to(device)
        images = self._cut(index, shift, flip) * strength[0]
        images = images.mean((1, 2, 3), keepdim=True).lerp(images, strength[1])
        images = images.mean(1, keepdim=True).lerp(images, strength[2]).clamp(0, 1)
        height, width = images.shape[-2:]
        row = torch.arange(height, device=device)[:, None] / height - 0.75 * corner[0]
        column = torch.arange(width, device=device) / width - 0.75 * corner[1]
        hole = (row >= 0) & (row < 0.25) & (column >= 0) & (column < 0.25)
        return images.masked_fill(hole, 0.5)

    def _cut(self, index: Tensor, shift: Tensor, flip: Tensor) -> Tensor:
        """Pictures `index` [B], each with its own shift [B, 2] and flip [B]: [B, 3, H, W]."""
        loader = self.loader
        _, height, width = loader.images.input_size
        rows = torch.arange(height, device=index.device)[None] + shift[:, :1]  # [B, H]
        columns = torch.arange(width, device=index.device)[None].expand(len(index), -1)  # [B, W]
        columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift[:, 1:]
        pixels = loader.padded[index[:, None, None], rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
        return to_float(pixels)


def hold_out(splits: Splits, share: float) -> Splits:
    """Set aside a stratified `share` of the training set, the same pictures in every run (its own fixed seed)."""
    if not share:
        return splits
    from sklearn.model_selection import train_test_split

    targets = splits.train.targets.numpy()
    try:
        keep, held = train_test_split(np.arange(len(targets)), test_size=share, stratify=targets, random_state=0)
    except ValueError as error:
        raise UserError(f"validation: can't hold out {share:g} of {len(targets)} pictures: {error}") from error
    train, validation = (splits.train[torch.from_numpy(np.sort(part))] for part in (keep, held))
    return replace(splits, train=train, validation=validation)


def load_splits(name: str, settings: dict[str, Any], data_dir: Path, validation: float = 0.0) -> Splits:
    """The data set `name`, on the CPU, with `validation` held out. Raises UserError when it cannot be had."""
    return hold_out(DATASETS[name](data_dir, **settings), validation)

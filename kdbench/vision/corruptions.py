"""Test pictures made worse in stated ways: how far does a student's accuracy fall?

Seven kinds at five strengths, made with torchvision's operations and Pillow's JPEG; after Hendrycks and Dietterich 2019
(https://arxiv.org/abs/1903.12261), whose own files and code are others, so numbers do not compare with theirs. Where
they give strengths for 224 pixels these are taken over; a blur follows the side of the pictures, an elastic distortion
moves by about as many pixels at any side (1.7 in the middle strength), as torchvision's does.

Shapes: B batch, H x W pixels; pictures [B, 3, H, W] in 0..1.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

from kdbench.method.contract import Batch, InputSpec
from kdbench.seeding import derive
from kdbench.vision.policies import of

SIDE = 224  # of the pictures for which lengths are given
# Draws are for blocks of at most so many pictures and numbers, whatever the device and the batch of an evaluation.
BLOCK, BLOCK_NUMBERS = 500, 2**23
Change = Callable[[Tensor, float, Generator], Tensor]


def noise(x: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Normal, of each channel of each pixel."""
    return (x + deviation * torch.randn(x.shape, generator=generator).to(x)).clamp(0, 1)


def blur(x: Tensor, sigma: float, _: Generator) -> Tensor:
    """In small pictures relatively more: with their whole scale it could not be seen there."""
    return smooth(x, sigma * (x.shape[-1] / SIDE) ** 0.5)


def smooth(x: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of `sigma` pixels, cut off at 3 of them or the picture's side."""
    reach = max(1, min(math.ceil(3 * sigma), min(x.shape[-2:]) - 1))
    return of().gaussian_blur(x, [2 * reach + 1, 2 * reach + 1], [max(sigma, 1e-3)] * 2)


def jpeg(x: Tensor, quality: float, _: Generator) -> Tensor:
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    coded = np.stack([coded_and_back(Image.fromarray(picture), int(quality)) for picture in pixels])
    return torch.from_numpy(coded).permute(0, 3, 1, 2).to(x.device).float() / 255


def coded_and_back(picture: Image.Image, quality: int) -> np.ndarray:
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def brightness(x: Tensor, factor: float, _: Generator) -> Tensor:
    return of().adjust_brightness(x, factor)


def contrast(x: Tensor, factor: float, _: Generator) -> Tensor:
    return of().adjust_contrast(x, factor)


def posterize(x: Tensor, bits: float, _: Generator) -> Tensor:
    return of().posterize((x * 255).round().to(torch.uint8), int(bits)).float() / 255


def elastic(x: Tensor, alpha: float, generator: Generator) -> Tensor:
    """torchvision's `ElasticTransform` with sigma 5 (at 224 pixels), each picture by a field of its own."""
    count, _, height, width = x.shape
    field = smooth(torch.rand(count, 2, height, width, generator=generator) * 2 - 1, 5 * width / SIDE)
    moved = (field * alpha / SIDE).permute(0, 2, 3, 1).to(x)
    here = F.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    return F.grid_sample(x, here.to(x) + moved, padding_mode="border", align_corners=False)


KINDS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "noise": (noise, (0.08, 0.12, 0.18, 0.26, 0.38)),  # theirs
    "blur": (blur, (1, 2, 3, 4, 6)),  # theirs
    "jpeg": (jpeg, (25, 18, 15, 10, 7)),  # theirs
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),  # theirs
    "brightness": (brightness, (1.3, 1.6, 1.9, 2.2, 2.5)),
    "posterize": (posterize, (5, 4, 3, 2, 1)),
    "elastic": (elastic, (50, 75, 100, 125, 150)),
}


@dataclass(frozen=True)
class Corrupted:
    """A test set with every picture made worse; for evaluation alone, always in the same way."""

    split: Any  # a kdbench.data.Split of pictures
    kind: str
    strength: int  # 1..5

    @property
    def targets(self) -> Tensor:
        return self.split.targets

    @property
    def inputs(self) -> InputSpec:
        return self.split.inputs

    def __len__(self) -> int:
        return len(self.split)

    def in_order(self, size: int) -> Iterator[Batch]:
        """In blocks of their own; `size` is not asked, so that every device sees the same pictures."""
        change, values = KINDS[self.kind]
        block = max(1, min(BLOCK, BLOCK_NUMBERS // math.prod(self.inputs.fields[0].shape)))
        for number, batch in enumerate(self.split.in_order(block)):
            seed = derive("corruption", self.kind, self.strength, number)
            changed = change(batch.inputs, values[self.strength - 1], torch.Generator().manual_seed(seed))
            yield replace(batch, inputs=changed.contiguous(memory_format=torch.channels_last))


def corrupted(split: Any) -> Iterator[tuple[str, Corrupted]]:
    """(kind, test set) for every kind and strength."""
    for kind, (_, values) in KINDS.items():
        for strength in range(1, len(values) + 1):
            yield kind, Corrupted(split, kind, strength)

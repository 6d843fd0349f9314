"""Mixup and CutMix: each picture of a batch blended with another one, as timm does it for a whole batch.

Mixup: Zhang et al. 2017, https://arxiv.org/abs/1710.09412. CutMix: Yun et al. 2019, https://arxiv.org/abs/1905.04899.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from kdbench.method.contract import Blend


@dataclass(frozen=True)
class Mix:
    """What a batch drew. `share`: of a picture's own; `box`: (top, left, bottom, right) of the other's, None: mixup."""

    share: float
    box: tuple[int, int, int, int] | None = None

    def of(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W], each with the one that stands as far from the batch's end as it from the beginning."""
        other = pictures.flip(0)
        if self.box is None:
            return other.lerp(pictures, self.share)
        top, left, bottom, right = self.box
        mixed = pictures.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        return mixed

    def blend(self, count: int, device: torch.device) -> Blend:
        """Who is mixed with whom, for the labels."""
        partner = torch.arange(count - 1, -1, -1, device=device)
        return Blend(partner, torch.full((count,), self.share, device=device))


def with_neighbours(pictures: Tensor, generator: Generator) -> Tensor:
    """The view `mixed`: each picture with its neighbour (a batch is in random order), all in one share."""
    return pictures.lerp(pictures.roll(1, 0), float(torch.rand((), generator=generator)))


def draw_mix(
    mixup: float | None, cutmix: float | None, probability: float, size: tuple[int, int], generator: Generator
) -> Mix | None:
    """One for a batch of pictures of `size` (height, width); None where none is mixed. `mixup`, `cutmix`: the alphas.

    With both, one of the two by a coin. The share is drawn from Beta(alpha, alpha); CutMix's is that of what is left.
    """
    luck = torch.rand(2, generator=generator).tolist()
    if luck[0] >= probability:
        return None
    cuts = mixup is None or (cutmix is not None and luck[1] < 0.5)
    alpha = float((cutmix if cuts else mixup) or 0)
    share = float(np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))
    return cut(share, size, generator) if cuts else Mix(share)


def cut(share: float, size: tuple[int, int], generator: Generator) -> Mix:
    """A box of about 1 - share of the picture around a point anywhere in it; what lies outside is not counted."""
    height, width = size
    tall, wide = (int(side * (1 - share) ** 0.5) for side in size)
    row, column = (int(torch.randint(side, (), generator=generator)) for side in size)
    top, bottom = (min(max(edge, 0), height) for edge in (row - tall // 2, row + tall // 2))
    left, right = (min(max(edge, 0), width) for edge in (column - wide // 2, column + wide // 2))
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))

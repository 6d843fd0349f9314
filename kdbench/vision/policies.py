"""RandAugment, TrivialAugment, AutoAugment: a few operations for each picture, drawn at random; torchvision's kernels.

A policy draws for each picture of a batch, on the CPU, which operations it gets and how strong; pictures that get the
same are changed together, where they lie. Pictures are [B, 3, H, W] uint8. The strength of an operation is a share
0..1 of its range, which differs from policy to policy.
"""

from collections.abc import Callable, Iterator
from functools import cache
from math import atan, degrees
from typing import Any

import torch
from torch import Generator, Tensor

Operation = tuple[str, float]  # its name, and what it is called with

GREY = 128.0  # what comes in from outside a picture that is turned or moved
RAND = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast"),
    *("brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"),
)
WIDE = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "auto_contrast", "equalize"),
)
# torchvision's names of AutoAugment's operations
NAMES = {name.replace("_", ""): name for name in sorted({*RAND, *WIDE})}


@cache
def of() -> Any:
    """torchvision's functions on pictures: a second and a half, which who trains without them need not wait."""
    from torchvision.transforms.v2 import functional

    return functional


def affine(x: Tensor, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Moved by whole pixels (right, down), or sheared around the upper left corner by angles in degrees."""
    bilinear = of().InterpolationMode.BILINEAR
    return of().affine(
        x, 0.0, list(translate), 1.0, list(shear), interpolation=bilinear, fill=[GREY] * 3, center=[0.0, 0.0]
    )


def rotate(x: Tensor, angle: float) -> Tensor:
    return of().rotate(x, angle, interpolation=of().InterpolationMode.BILINEAR, fill=[GREY] * 3)


def posterize(x: Tensor, bits: float) -> Tensor:
    return of().posterize(x, int(bits)) if bits >= 1 else torch.zeros_like(x)


def solarize_add(x: Tensor, added: float) -> Tensor:
    """The darker half is made lighter."""
    return torch.where(x < 128, (x.int() + int(added)).clamp(max=255).to(x.dtype), x)


CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda x, _: x,
    "auto_contrast": lambda x, _: of().autocontrast(x),
    "equalize": lambda x, _: of().equalize(x),
    "invert": lambda x, _: of().invert(x),
    "rotate": rotate,
    "posterize": posterize,
    "solarize": lambda x, threshold: of().solarize(x, min(threshold, 255.0)) if threshold <= 255 else x,
    "solarize_add": solarize_add,
    "color": lambda x, change: of().adjust_saturation(x, 1 + change),
    "contrast": lambda x, change: of().adjust_contrast(x, 1 + change),
    "brightness": lambda x, change: of().adjust_brightness(x, 1 + change),
    "sharpness": lambda x, change: of().adjust_sharpness(x, 1 + change),
    "shear_x": lambda x, slope: affine(x, shear=(degrees(atan(slope)), 0.0)),
    "shear_y": lambda x, slope: affine(x, shear=(0.0, degrees(atan(slope)))),
    "translate_x": lambda x, places: affine(x, translate=(int(places), 0)),
    "translate_y": lambda x, places: affine(x, translate=(0, int(places))),
}
SIGNED = {"rotate", "color", "contrast", "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y"}
ENHANCED = {"color", "contrast", "brightness", "sharpness"}


def timm_value(name: str, share: float, side: int) -> float:
    """timm's ranges with severity that rises (`inc1`), `share` = magnitude / 10."""
    tables = {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3}
    if name in ENHANCED:
        return share * 0.9
    if name in ("translate_x", "translate_y"):
        return share * 0.45 * side
    if name == "posterize":
        return 4 - int(share * 4)
    if name == "solarize":
        return 256 - min(256, int(share * 256))
    if name == "solarize_add":
        return int(share * 110)
    return share * tables.get(name, 0.0)


def torchvision_value(name: str, share: float, side: int, wide: bool) -> float:
    """The ranges of torchvision's TrivialAugmentWide (`wide`) and AutoAugment."""
    if name == "posterize":
        return 8 - round(share * (6 if wide else 4))
    if name == "solarize":
        return 255 * (1 - share)
    if name in ("translate_x", "translate_y"):
        return share * (32.0 if wide else 150 / 331 * side)
    if name == "rotate":
        return share * (135.0 if wide else 30.0)
    if name in ("shear_x", "shear_y"):
        return share * (0.99 if wide else 0.3)
    return share * (0.99 if wide else 0.9)


class RandAugment:
    """timm's `rand-mM-nN-mstdS-inc1` (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719): N times one of 15, each
    with probability 1/2, the magnitude normal around M with deviation S, within 0..10.
    """

    def __init__(self, magnitude: float, num_ops: int = 2, std: float = 0.5, probability: float = 0.5) -> None:
        self.magnitude, self.num_ops, self.std, self.probability = magnitude, num_ops, std, probability

    def draw(self, count: int, side: int, generator: Generator) -> list[list[Operation]]:
        """For each of `count` pictures of that side its operations, in their order."""
        size = (count, self.num_ops)
        kind = torch.randint(len(RAND), size, generator=generator).tolist()
        applies = (torch.rand(size, generator=generator) < self.probability).tolist()
        noise = torch.randn(size, generator=generator, dtype=torch.float64) * self.std
        share = ((self.magnitude + noise).clamp(0, 10) / 10).tolist()
        sign = signs(size, generator)
        return [
            [
                signed(RAND[kind[i][j]], timm_value(RAND[kind[i][j]], share[i][j], side), sign[i][j])
                for j in range(self.num_ops)
                if applies[i][j]
            ]
            for i in range(count)
        ]


class TrivialAugment:
    """Müller and Hutter 2021 (https://arxiv.org/abs/2103.10158), the wide space: one operation, any of 31 strengths."""

    def draw(self, count: int, side: int, generator: Generator) -> list[list[Operation]]:
        kind = torch.randint(len(WIDE), (count,), generator=generator).tolist()
        level = torch.randint(31, (count,), generator=generator).tolist()
        sign = signs((count,), generator)
        return [
            [signed(WIDE[k], torchvision_value(WIDE[k], n / 30, side, wide=True), s)]
            for k, n, s in zip(kind, level, sign, strict=True)
        ]


class AutoAugmented:
    """Cubuk et al. 2018 (https://arxiv.org/abs/1805.09501): one of 25 pairs of operations, found on `found_on`."""

    def __init__(self, found_on: str) -> None:
        from torchvision.transforms import AutoAugment, AutoAugmentPolicy

        self.pairs = AutoAugment(AutoAugmentPolicy(found_on)).policies

    def draw(self, count: int, side: int, generator: Generator) -> list[list[Operation]]:
        chosen = torch.randint(len(self.pairs), (count,), generator=generator).tolist()
        luck = torch.rand(count, 2, generator=generator).tolist()
        sign = signs((count, 2), generator)
        return [list(self._pair(chosen[i], luck[i], sign[i], side)) for i in range(count)]

    def _pair(self, number: int, luck: list[float], sign: list[int], side: int) -> Iterator[Operation]:
        for (theirs, probability, level), drawn, either in zip(self.pairs[number], luck, sign, strict=True):
            name = NAMES[theirs.lower()]
            if drawn <= probability:
                yield signed(name, torchvision_value(name, (level or 0) / 9, side, wide=False), either)


def signs(size: tuple[int, ...], generator: Generator) -> Any:
    """Nested lists of -1 and 1."""
    return (2 * torch.randint(2, size, generator=generator) - 1).tolist()


def signed(name: str, value: float, sign: int) -> Operation:
    """An operation that knows no strength is the same for all: they are changed together."""
    return name, float(value * sign if name in SIGNED else value)


def apply(pictures: Tensor, drawn: list[list[Operation]]) -> Tensor:
    """Pictures [B, 3, H, W] uint8, each with its operations; those that get the same one are changed in one call."""
    pictures = pictures.clone()
    for turn in range(max(map(len, drawn), default=0)):
        same: dict[Operation, list[int]] = {}
        for place, operations in enumerate(drawn):
            if turn < len(operations):
                same.setdefault(operations[turn], []).append(place)
        for (name, value), places in same.items():
            pictures[places] = CHANGES[name](pictures[places], value)
    return pictures

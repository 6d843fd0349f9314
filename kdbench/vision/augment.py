"""Augmentation by a table: what is done to each training picture, in batches, on the device, by torchvision's kernels.

    augment: {resized_crop: [0.08, 1], flip: 0.5, rand_augment: {magnitude: 9}, erase: 0.25, mixup: 0.8, cutmix: 1}

A batch is changed by draws of its own from (seed, epoch, step) on the CPU: any device, any source of pixels, any later
run sees the same pictures. An entry that is not there is off. The order is that of DeiT's script: crop, flip, a policy
(or jitter), erasing, mixing (timm's own script mixes before it erases).
"""

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor

from kdbench.method.contract import Blend, Inputs
from kdbench.seeding import derive
from kdbench.vision.crops import boxes, erased, jittered, resized, shifted, to_float
from kdbench.vision.mixing import Mix, draw_mix, with_neighbours
from kdbench.vision.policies import AutoAugmented, RandAugment, TrivialAugment, apply

Probability = Annotated[float, Field(gt=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
Scale = Annotated[tuple[Probability, ...], Field(min_length=2, max_length=2, strict=False)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RandSettings(Settings):
    """`rand-m9-n2-mstd0.5-inc1` is {magnitude: 9}; `probability`: that each of the operations is done at all."""

    magnitude: Annotated[float, Field(ge=0, le=10)]
    num_ops: Annotated[int, Field(ge=1)] = 2
    std: Annotated[float, Field(ge=0)] = 0.5
    probability: Probability = 0.5


class Augment(Settings):
    """A table of `train.augment`; `None`: off."""

    resized_crop: Scale | None = None  # shares of the area between which a box is cut out, then enlarged to the whole
    interpolation: Literal["bilinear", "bicubic"] | None = None  # of that enlargement; None: bilinear
    shift: Annotated[float, Field(gt=0, le=0.5)] | None = None  # by up to this share of the side, with black borders
    flip: Probability | None = None
    color_jitter: Probability | None = None  # brightness, contrast and saturation, by up to this share
    rand_augment: RandSettings | None = None
    trivial_augment: Literal[True] | None = None
    auto_augment: Literal["imagenet", "cifar10", "svhn"] | None = None  # where the policy was found
    erase: Probability | None = None  # of the pictures, a box filled with noise
    mixup: Above0 | None = None  # the alpha of its Beta law
    cutmix: Above0 | None = None
    mix_probability: Probability | None = None  # that a batch is mixed at all; None: always
    repeats: Annotated[int, Field(ge=2)] | None = None  # of a picture in an epoch, which then sees fewer of them

    @model_validator(mode="after")
    def _fits(self) -> Self:
        together = (("resized_crop", "shift"), ("rand_augment", "trivial_augment", "auto_augment", "color_jitter"))
        for names in together:
            given = [name for name in names if getattr(self, name) is not None]
            if len(given) > 1:
                raise ValueError(f"one of {' and '.join(given)} is enough")
        for name, of in (("interpolation", ("resized_crop",)), ("mix_probability", ("mixup", "cutmix"))):
            if getattr(self, name) is not None and all(getattr(self, other) is None for other in of):
                raise ValueError(f"{name} is of {' or '.join(of)}, which is off")
        if self.resized_crop is not None and self.resized_crop[0] > self.resized_crop[1]:
            raise ValueError("resized_crop goes from the smaller share to the larger")
        return self

    @property
    def policy(self) -> RandAugment | TrivialAugment | AutoAugmented | None:
        if self.rand_augment is not None:
            return RandAugment(**self.rand_augment.model_dump())
        if self.auto_augment is not None:
            return AutoAugmented(self.auto_augment)
        return TrivialAugment() if self.trivial_augment else None

    def order(self, count: int, generator: Generator) -> Tensor:
        """Which pictures an epoch has, [N] of N: all, or with `repeats` each of some so often, one after the other."""
        order = torch.randperm(count, generator=generator)
        return order if self.repeats is None else order.repeat_interleave(self.repeats)[:count]

    def inputs(
        self,
        pixels: Tensor,
        place: tuple[int, ...],
        views: Collection[str] = (),
        others: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> tuple[Tensor, dict[str, Inputs], Blend | None]:
        """A batch of pixels [B, H, W, C] uint8 augmented and mixed, its other `views`, and how it was mixed.

        `place`: what the draws depend on (seed, epoch, step). The view `second` is another draw of the same, mixed
        alike; `plain` is neither augmented nor mixed. `others`: the pixels of these two, where they are not `pixels`.
        """
        height, width = pixels.shape[1:3]
        mix = self.mix((height, width), *place)
        pictures = self.pictures(pixels, *place)
        again = others.get("second", pixels)
        seconds = {"second": self.pictures(again, "second view", *place)} if "second" in views else {}
        if mix is not None:
            pictures, seconds = mix.of(pictures), {name: mix.of(view) for name, view in seconds.items()}
        seen: dict[str, Inputs] = dict(seconds)
        if "plain" in views:
            seen["plain"] = to_float(others.get("plain", pixels))
        if "mixed" in views:
            generator = torch.Generator().manual_seed(derive("mixed view", *place))
            seen["mixed"] = with_neighbours(pictures, generator)
        return pictures, seen, None if mix is None else mix.blend(len(pixels), pixels.device)

    def pictures(self, pixels: Tensor, *place: object) -> Tensor:
        """[B, H, W, C] uint8 -> [B, 3, H, W] floats; `place`: what the draws depend on (seed, epoch, step)."""
        generator = torch.Generator().manual_seed(derive("augment", *place))
        pictures, policy = self._cut(pixels, generator), self.policy
        if policy is not None:
            drawn = policy.draw(len(pictures), pictures.shape[-1], generator)
            pictures = apply((pictures * 255).round().to(torch.uint8), drawn).float() / 255
        if self.color_jitter is not None:
            pictures = jittered(pictures, self.color_jitter, generator)
        if self.erase is not None:
            pictures = erased(pictures, self.erase, generator)
        return pictures.contiguous(memory_format=torch.channels_last)

    def _cut(self, pixels: Tensor, generator: Generator) -> Tensor:
        count, height, width, _ = pixels.shape
        flip = (torch.rand(count, generator=generator) < (self.flip or 0)).to(pixels.device)
        if self.resized_crop is not None:
            low, high = self.resized_crop
            drawn = boxes(count, height, width, (low, high), generator)
            return resized(to_float(pixels), drawn, flip, self.interpolation or "bilinear")
        pad = round(height * self.shift) if self.shift is not None else 0
        shift = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator).to(pixels.device)
        return to_float(shifted(pixels, shift, flip, pad))

    def mix(self, size: tuple[int, int], *place: object) -> Mix | None:
        """How a batch of pictures of `size` (height, width) is mixed; None: not at all."""
        if self.mixup is None and self.cutmix is None:
            return None
        generator = torch.Generator().manual_seed(derive("mix", *place))
        return draw_mix(self.mixup, self.cutmix, self.mix_probability or 1.0, size, generator)


def table_of(augment: str | Mapping[str, Any]) -> Augment | None:
    """The settings of a table; None for a word."""
    return None if isinstance(augment, str) else _read(json.dumps(augment))


@lru_cache(maxsize=64)
def _read(text: str) -> Augment:
    return Augment.model_validate_json(text)

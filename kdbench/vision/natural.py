"""Random-resized-crop from photographs at their natural size, as torchvision and timm do it.

A box of a picture that was brought to `size` before has lost its detail, and what lay beside the middle is in none.
Draws are made for a whole batch before any picture's size is known, from (seed, epoch, step) alone: the same boxes for
any number of threads, and from whatever step an epoch begins.
"""

import math
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdbench.batching import parts
from kdbench.errors import UserError
from kdbench.method.contract import Batch
from kdbench.seeding import derive
from kdbench.vision.augment import Augment
from kdbench.vision.crops import ASPECT, TRIES, uniform
from kdbench.vision.sizing import FILTERS
from kdbench.vision.sources import Decoder
from kdbench.vision.streamed import Job, Streamed

Drawn = np.ndarray | None  # [B, 2 TRIES + 2] of a view's boxes; None: it shows pictures as they are brought to size


def drawn(count: int, scale: tuple[float, float], *place: object) -> np.ndarray:
    """[count, 2 TRIES + 2]: shares of the area, aspect ratios, and where the box lies, 0..1 downwards and across."""
    generator = torch.Generator().manual_seed(derive("natural boxes", *place))
    shares = uniform((count, TRIES), *scale, generator)
    ratios = uniform((count, TRIES), math.log(ASPECT[0]), math.log(ASPECT[1]), generator).exp()
    return torch.cat((shares, ratios, uniform((count, 2), 0, 1, generator)), 1).numpy()


def box_of(draw: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels: the first of ten sizes that fits, else the largest middle whose
    aspect ratio is allowed (`RandomResizedCrop.get_params`).
    """
    down, across = draw[2 * TRIES :]
    for share, ratio in zip(draw[:TRIES], draw[TRIES : 2 * TRIES], strict=True):
        area = share * width * height
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - tall + 1))
            return left, top, left + wide, top + tall
    ratio = min(max(width / height, ASPECT[0]), ASPECT[1])
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def boxed(picture: Image.Image, draw: np.ndarray, side: int, interpolation: str) -> np.ndarray:
    """[side, side, 3]: a box of the picture, antialiased where it is made smaller."""
    box = picture.crop(box_of(draw, *picture.size))
    return np.asarray(box.resize((side, side), FILTERS[interpolation]))


class Photographs(Decoder):
    """As its base; and boxes of whole pictures. `checksums`: of the files' contents, looked at when one is read."""

    def content(self, place: int) -> bytes:
        found = super().content(place)
        if self.checksums is not None and zlib.crc32(found) != self.checksums[place]:
            raise UserError(f"pictures changed since this run began: {self.source.name(place)}; start it again")
        return found

    def changed(self, places: Sequence[int], rows: np.ndarray, checksums: np.ndarray) -> list[str]:
        return []  # would have been noticed in `content`

    def sums(self, first: int, rows: np.ndarray) -> list[int]:
        return [self._sum(place) for place in range(first, first + len(rows))]

    def _sum(self, place: int) -> int:
        try:
            return zlib.crc32(self.source.content(place))
        except OSError:
            return 0

    def cut(self, places: Sequence[int], views: Sequence[Drawn], interpolation: str, rows: np.ndarray) -> None:
        """Into rows [V, M, side, side, 3] what each view shows of the pictures, decoded once. Raises as `fill`."""

        different = list(dict.fromkeys(places))

        def make(number: int, picture: Image.Image) -> None:
            for row in (row for row, place in enumerate(places) if place == different[number]):
                for view, draws in zip(rows, views, strict=True):
                    if draws is None:
                        view[row] = np.asarray(self.sized(picture, self.side))
                    else:
                        view[row] = boxed(picture, draws[row], self.side, interpolation)

        self.refuse(self.each(different, make))


@dataclass(frozen=True)
class Natural(Streamed):
    """Training pictures whose `resized_crop` cuts boxes at their natural size; all else is as in `Streamed`."""

    pixels: Photographs

    def _by_table(
        self, table: Augment, size: int, place: tuple[int, int], start: int, views: Collection[str]
    ) -> Iterator[Batch]:
        if table.resized_crop is None:
            yield from super()._by_table(table, size, place, start, views)
            return
        order = table.order(len(self), torch.Generator().manual_seed(derive("batches", *place)))
        batches = list(parts(order, size, start))
        shown = ["", *(view for view in ("plain", "second") if view in views)]
        rest = table.model_copy(update={"resized_crop": None, "interpolation": None})
        with closing(self._read(self._cuts(table, batches, place, shown), size)) as read:
            for (step, index), pixels in zip(batches, read, strict=True):
                others = dict(zip(shown[1:], pixels[1:], strict=True))
                images, seen, blend = rest.inputs(pixels[0], (*place, step), views, others)
                places = index.to(self.targets.device)
                yield Batch(images, self.targets[places], places, views=seen, blend=blend)

    def _cuts(
        self, table: Augment, batches: Sequence[tuple[int, Tensor]], place: tuple[int, int], shown: Sequence[str]
    ) -> Iterator[Job]:
        low, high = table.resized_crop or (1.0, 1.0)
        for step, index in batches:
            places, how = self.places[index].tolist(), table.interpolation or "bilinear"
            views = [None if v == "plain" else drawn(len(index), (low, high), v, *place, step) for v in shown]
            batch = self._blank(len(shown), len(index))
            for chunk, whole in self._chunks(places):
                draws = [None if view is None else view[chunk] for view in views]
                make = partial(self.pixels.cut, places[chunk], draws, how, batch[:, chunk].numpy())
                yield make, batch if whole else None

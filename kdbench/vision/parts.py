"""A data set from picture files with labels: in memory, from a pack or decoded as it goes."""

import hashlib
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL
import torch

from kdbench.data import Held, Splits
from kdbench.errors import UserError
from kdbench.vision.batches import Images, Pictures
from kdbench.vision.builtin import images
from kdbench.vision.holding import Holding, holding_of
from kdbench.vision.packed import Name, obtain
from kdbench.vision.sources import Decoder, Source, in_turn, workers
from kdbench.vision.streamed import Streamed

SOME = 64  # pictures that are decoded to see how fast that goes


@dataclass(frozen=True)
class About:
    """Of a part of a data set: its name, where it is, what tells its pictures from others, where pixels shall lie."""

    dataset: str
    root: str
    data: str
    holding: Holding

    def name(self, side: int) -> Name:
        root = os.path.realpath(self.root) if os.path.exists(self.root) else self.root
        decoded = f"{self.data} Pillow {PIL.__version__}"  # another one may decode to other pixels
        return Name(f"{_short(root)}-{side}", _short(decoded))


@dataclass(frozen=True)
class Labelled:
    """One part of a data set: where it is found, its picture files, and their labels [N]."""

    root: str
    source: Source
    labels: Sequence[int]


def splits_of(
    dataset: str, parts: Sequence[Labelled], classes: Sequence[str], how: tuple[int, float | None, bool], data: str
) -> Splits:
    """Training and test pictures. `how`: side, megapixels and whether broken ones are left out; `data`: the digest."""
    side, megapixels, skip = how
    holding = holding_of(sum(len(part.labels) for part in parts), side)
    made = []
    for part in parts:
        about = About(dataset, part.root, f"{data} {side} {megapixels}", holding)
        made.append(pictures_of(Decoder(part.source, side, megapixels), part.labels, about, skip))
    return Splits(made[0], made[1], len(classes), classes=tuple(classes))


def held_as(parts: Sequence[Labelled], side: int, megapixels: float | None) -> Held:
    """Where the pixels will lie, and how fast some of them are decoded just now, if that matters."""
    holding = holding_of(sum(len(part.labels) for part in parts), side)
    if holding.where == "memory":
        return Held(holding.words(math.inf))
    rate = decode_rate(Decoder(parts[0].source, side, megapixels))
    return Held(holding.words(rate), rate if holding.where == "stream" else math.inf)


def decode_rate(decoder: Decoder) -> float:
    """Pictures a second, of some that are evenly chosen."""
    chosen = range(0, len(decoder), -(-len(decoder) // SOME))

    def decode(group: Sequence[int]) -> None:
        decoder.try_to_fill(group, np.empty((len(group), decoder.side, decoder.side, 3), np.uint8))

    start = time.perf_counter()
    for _ in in_turn(decode, (chosen[place :: workers()] for place in range(workers())), workers(), workers()):
        pass
    return len(chosen) / (time.perf_counter() - start)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def pictures_of(decoder: Decoder, labels: Sequence[int], about: About, skip: bool) -> Pictures:
    """The pictures with their labels [N]. What can't be read is named, and left out with `skip`, else a UserError."""
    if about.holding.where == "memory":
        return in_memory(decoder, labels, about, skip)
    pixels, broken = obtain(decoder, about.name(decoder.side), about.holding.where == "pack")
    whole = torch.tensor(whole_ones(len(decoder), broken, about, skip))
    return Streamed(pixels, whole, torch.tensor(labels)[whole])


def in_memory(decoder: Decoder, labels: Sequence[int], about: About, skip: bool) -> Images:
    pixels = np.empty((len(decoder), decoder.side, decoder.side, 3), dtype=np.uint8)

    def keep(first: int, rows: np.ndarray) -> None:
        pixels[first : first + len(rows)] = rows

    broken = decoder.survey(keep)
    whole = whole_ones(len(decoder), broken, about, skip)
    return images(pixels[whole] if broken else pixels, [labels[place] for place in whole])


def whole_ones(count: int, broken: dict[int, str], about: About, skip: bool) -> list[int]:
    """The pictures that can be read. Raises UserError where some can't, unless they are to be left out."""
    if broken:
        shown = ", ".join(list(broken.values())[:5]) + (" ..." if len(broken) > 5 else "")
        what = f"data set {about.dataset}: {len(broken)} of {count} pictures below {about.root} can't be read: {shown}"
        if not skip:
            raise UserError(f"{what}; remove them, or give the data set `broken: skip`")
        print(f"{what}; they are left out", file=sys.stderr)
    return [place for place in range(count) if place not in broken]

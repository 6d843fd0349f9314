"""A data set from picture files with labels: in memory, from a pack or decoded as it goes."""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL
import torch

from kdbench.data import Held, Splits
from kdbench.errors import UserError
from kdbench.vision.batches import Images, Pictures
from kdbench.vision.builtin import images
from kdbench.vision.holding import Holding, holding_of, packs
from kdbench.vision.learnt import Learnt
from kdbench.vision.natural import Natural, Photographs
from kdbench.vision.packed import Name, obtain
from kdbench.vision.sizing import sized_by
from kdbench.vision.sources import Decoder, Source, in_turn, workers
from kdbench.vision.streamed import Streamed

NATURAL = (
    "training pictures are decoded whole whenever they are needed, {rate:.0f} pictures/s (no pack: each crop is "
    "another); test pictures: {test}"
)
SOME = 64  # pictures that are decoded to see how fast that goes


@dataclass(frozen=True)
class About:
    """Of a part of a data set: its name, where it is, what tells its pictures from others, where pixels shall lie.

    `crop`: what tells these pixels from others of the same pictures, so that both have a pack.
    """

    dataset: str
    root: str
    data: str
    holding: Holding
    crop: str = ""

    def name(self, side: int) -> Name:
        root = os.path.realpath(self.root) if os.path.exists(self.root) else self.root
        decoded = f"{self.data} Pillow {PIL.__version__}"  # another one may decode to other pixels
        return Name(f"{_short(root + self.crop)}-{side}", _short(decoded))


@dataclass(frozen=True)
class Labelled:
    """One part of a data set: where it is found, its picture files, and their labels [N]."""

    root: str
    source: Source
    labels: Sequence[int]


@dataclass(frozen=True)
class How:
    """How pictures are read: to which side, how large they may be, whether broken ones are left out.

    `test_crop`: how they are brought to that side where nets are judged (`sizing.Middle`); None: as for training.
    `natural`: training crops are cut from whole photographs.
    """

    side: int
    megapixels: float | None = None
    skip: bool = False
    test_crop: dict[str, Any] | float | None = None
    natural: bool = False

    def decoder(self, source: Source, test: bool = False) -> Decoder:
        return Decoder(source, self.side, self.megapixels, sized_by(self.test_crop if test else None))


def how_of(size: int, broken: str, max_megapixels: float | None, **more: Any) -> How:
    """Of a data set's settings; those that say nothing of it are passed over."""
    return How(size, max_megapixels, broken == "skip", more.get("test_crop"), bool(more.get("natural")))


def splits_of(dataset: str, parts: Sequence[Labelled], classes: Sequence[str], how: How, data: str) -> Splits:
    """Training and test pictures. `data`: the digest of them all."""
    train, test = parts
    about = f"{data} {how.side} {how.megapixels}"
    crop, holding = crop_words(how), holding_for(parts, how)
    learnt, whole = learnt_of(how, train, About(dataset, train.root, about, holding))
    judged = About(dataset, test.root, about + crop, holding, crop)
    seen, _ = pictures_of(how.decoder(test.source, test=True), test.labels, judged, how.skip)
    if how.test_crop:
        again = Streamed(how.decoder(train.source, test=True), torch.tensor(whole), learnt.targets)
        return Splits(Learnt(learnt, again), seen, len(classes), classes=tuple(classes))
    return Splits(learnt, seen, len(classes), classes=tuple(classes))


def learnt_of(how: How, part: Labelled, about: About) -> tuple[Pictures, list[int]]:
    """The training pictures, and which of the source they are."""
    if not how.natural:
        return pictures_of(how.decoder(part.source), part.labels, about, how.skip)
    whole = Photographs(part.source, how.side, how.megapixels)
    about = replace(about, data=f"{about.data} natural", crop=" natural")
    _, broken = obtain(whole, about.name(how.side), keep=False)
    places = whole_ones(len(whole), broken, about, how.skip)
    return Natural(whole, torch.tensor(places), torch.tensor(part.labels)[places]), places


def holding_for(parts: Sequence[Labelled], how: How) -> Holding:
    """Where the pixels of both parts lie, or with `natural` those of the test pictures. A pack that is there needs no
    room: the rule is as when it was made.
    """
    kept = list(zip(parts, ("", crop_words(how)), strict=True))[how.natural :]
    there = sum(packed_bytes(part, how, crop) for part, crop in kept)
    return holding_of(sum(len(part.labels) for part, _ in kept), how.side, there)


def crop_words(how: How) -> str:
    """What tells pixels with this evaluation crop from others."""
    return f" {json.dumps(how.test_crop, sort_keys=True)}" if how.test_crop else ""


def packed_bytes(part: Labelled, how: How, crop: str) -> int:
    """Of a part's pack on the disk, of these pictures or of those that lay there before, whose place they take."""
    place = About("", part.root, "", Holding("pack", 0), crop).name(how.side).place
    return sum(path.stat().st_size for path in packs().glob(f"{place}-*.pixels"))


def held_as(parts: Sequence[Labelled], how: How) -> Held:
    """Where the pixels will lie, and how fast some of them are decoded just now, if that matters."""
    holding = holding_for(parts, how)
    if holding.where == "memory" and not how.natural:
        return Held(holding.words(math.inf))
    rate = decode_rate(how.decoder(parts[0].source))
    if how.natural:
        return Held(NATURAL.format(rate=rate, test=holding.words(rate)), rate)
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


def pictures_of(decoder: Decoder, labels: Sequence[int], about: About, skip: bool) -> tuple[Pictures, list[int]]:
    """The pictures with their labels [N], and which of the source they are.

    What can't be read is named, and left out with `skip`, else a UserError.
    """
    if about.holding.where == "memory":
        return in_memory(decoder, labels, about, skip)
    pixels, broken = obtain(decoder, about.name(decoder.side), about.holding.where == "pack")
    whole = whole_ones(len(decoder), broken, about, skip)
    return Streamed(pixels, torch.tensor(whole), torch.tensor(labels)[whole]), whole


def in_memory(decoder: Decoder, labels: Sequence[int], about: About, skip: bool) -> tuple[Images, list[int]]:
    pixels = np.empty((len(decoder), decoder.side, decoder.side, 3), dtype=np.uint8)
    broken: dict[int, str] = {}
    for first, rows, bad in decoder.survey():
        pixels[first : first + len(rows)] = rows
        broken |= bad
    whole = whole_ones(len(decoder), broken, about, skip)
    return images(pixels[whole] if broken else pixels, [labels[place] for place in whole]), whole


def whole_ones(count: int, broken: dict[int, str], about: About, skip: bool) -> list[int]:
    """The pictures that can be read. Raises UserError where some can't, unless they are to be left out."""
    if broken:
        shown = ", ".join(list(broken.values())[:5]) + (" ..." if len(broken) > 5 else "")
        what = f"data set {about.dataset}: {len(broken)} of {count} pictures below {about.root} can't be read: {shown}"
        if not skip:
            raise UserError(f"{what}; remove them, or give the data set `broken: skip`")
        print(f"{what}; they are left out", file=sys.stderr)
    return [place for place in range(count) if place not in broken]

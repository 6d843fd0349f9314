"""Pictures that are no photographs, and pictures that stand twice in a folder, perhaps to train on and to test by."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PLACEHOLDER = re.compile(r"not[-_ ]?found|unavailable|placeholder|no[-_ ]?(image|photo|picture)", re.IGNORECASE)
SIDE = 16  # of the thumbnail that two pictures are compared by
# Mean difference of grey values (of 255) below which two are one picture, re-encoded or resized; others: 30 and more.
NEAR = 4.0
FLAT = 2.0  # standard deviation of a thumbnail's grey values, below which it shows nothing


@dataclass(frozen=True)
class Look:
    """One picture, opened. `side`: the shorter one in pixels, 0 for a file that is no picture."""

    side: int
    thumbnail: np.ndarray  # [SIDE * SIDE] of grey values 0..255


def look(path: Path) -> Look:
    try:
        with Image.open(path) as picture:
            size = picture.size
            picture.draft("L", (4 * SIDE, 4 * SIDE))  # a JPEG is decoded at a fraction of its size
            small = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
            return Look(min(size), np.asarray(small, dtype=np.float32).ravel())
    except Exception:
        return Look(0, np.zeros(SIDE * SIDE, dtype=np.float32))


def is_placeholder(path: Path, seen: Look) -> bool:
    """By its name (`imageNotFound.gif`), or because it shows one colour."""
    return bool(PLACEHOLDER.search(path.stem)) or (seen.side > 0 and float(seen.thumbnail.std()) < FLAT)


def alike(paths: list[Path], looks: list[Look]) -> list[tuple[Path, Path]]:
    """Pairs that look the same, each with its nearest before it; pictures of one colour are left out.

    Neighbours in the order of mean grey are compared as long as their means are near: the difference of two thumbnails
    is at least that of their means.
    """
    kept = [n for n, seen in enumerate(looks) if seen.side and float(seen.thumbnail.std()) >= FLAT]
    if len(kept) < 2:
        return []
    thumbnails = np.stack([looks[n].thumbnail for n in kept])
    order = np.argsort(thumbnails.mean(1), kind="stable")
    means = thumbnails.mean(1)[order]
    found = []
    for place, which in enumerate(order):
        start = int(np.searchsorted(means, means[place] - NEAR))
        before = order[start:place]
        if len(before):
            distances = np.abs(thumbnails[before] - thumbnails[which]).mean(1)
            if distances.min() < NEAR:
                found.append((paths[kept[before[distances.argmin()]]], paths[kept[which]]))
    return found

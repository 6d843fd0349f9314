"""Where the pixels of a data set lie: a rule, so that nobody has to choose. Digits do not depend on it.

In memory, where they are few. Else in a pack (`packed.py`), where the disk has room: each picture is decoded once
anyway, to find those that can't be read. Else they are decoded whenever they are needed.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from kdbench.files import cache_folder

MOST_IN_MEMORY = 2**30  # bytes: from a pack more come as fast (tests/benchmarks/README.md), and memory is the nets'
OF_FREE_MEMORY = 0.3
OF_FREE_DISK = 0.5


@dataclass(frozen=True)
class Holding:
    """`where` the pixels lie, and how many `bytes` they are."""

    where: Literal["memory", "pack", "stream"]
    bytes: int

    def words(self, rate: float) -> str:
        """`rate`: pictures that are decoded in a second."""
        told = {
            "memory": "held in memory",
            "pack": f"streamed from a pack of them in {packs()}, which the first run makes ({rate:.0f} pictures/s)",
            "stream": f"decoded whenever they are needed, {rate:.0f} pictures/s ({packs()} has no room for a pack)",
        }
        return f"{self.bytes / 1e9:.2g} GB of pixels, {told[self.where]}"


def holding_of(count: int, side: int, there: int = 0) -> Holding:
    """For so many pictures of side x side. `there`: bytes of the disk that their packs take already."""
    needed = count * side * side * 3
    if needed <= min(MOST_IN_MEMORY, OF_FREE_MEMORY * psutil.virtual_memory().available):
        return Holding("memory", needed)
    return Holding("pack" if needed <= OF_FREE_DISK * (free_disk(packs()) + there) else "stream", needed)


def packs() -> Path:
    """Where packs lie; safe to delete."""
    return cache_folder("packs")


def free_disk(place: Path) -> int:
    """Bytes, where `place` is or would be."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free

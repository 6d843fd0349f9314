"""A look at a folder of pictures: classes, counts, sizes, what can't be opened."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kdbench.errors import UserError
from kdbench.vision.folder import parts_of, pictures

MOST_DECODED = 5000  # pictures that are opened in full
SIZES = (32, 48, 64, 96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Folder:
    """What was found in a folder of pictures. `counts`: class -> (training, test)."""

    root: Path
    counts: dict[str, tuple[int, int]]
    sides: tuple[int, int, int]  # the shorter side: smallest, median, largest of those opened
    opened: int
    broken: tuple[Path, ...]

    @property
    def num_train(self) -> int:
        return sum(train for train, _ in self.counts.values())

    @property
    def num_test(self) -> int:
        return sum(test for _, test in self.counts.values())

    @property
    def contents(self) -> str:
        return f"{len(self.counts)} classes, {self.num_train} pictures to train on, {self.num_test} to test"

    @property
    def can_hold_out(self) -> bool:
        """Is a tenth of the training pictures enough for one of every class?"""
        least = min(train for train, _ in self.counts.values())
        return self.num_train // 10 >= len(self.counts) and least >= 2

    @property
    def size(self) -> int:
        """The side that the suite brings pictures to: the largest usual one that the median picture fills."""
        return max([size for size in SIZES if size <= self.sides[1]], default=SIZES[0])


def inspect(root: Path) -> Folder:
    """Count the pictures of every class and open up to 5,000 of them, evenly chosen. Raises UserError as `parts_of`."""
    train, test, classes = parts_of(root)
    found = {name: (pictures(train / name), pictures(test / name)) for name in classes}
    files = [path for pair in found.values() for part in pair for path in part]
    if not files:
        raise UserError(f"{root}: no pictures below train/ and {test.name}/")
    chosen = files[:: math.ceil(len(files) / MOST_DECODED)]
    with ThreadPoolExecutor(2) as pool:
        sides = list(pool.map(_shorter_side, chosen))
    good = sorted(side for side in sides if side)
    if not good:
        raise UserError(f"{root}: none of {len(chosen)} pictures can be opened, e.g. {chosen[0]}")
    broken = tuple(path for path, side in zip(chosen, sides, strict=True) if not side)
    counts = {name: (len(a), len(b)) for name, (a, b) in found.items()}
    return Folder(root, counts, (good[0], good[len(good) // 2], good[-1]), len(chosen), broken)


def _shorter_side(path: Path) -> int:
    """In pixels; 0 for a picture that can't be decoded."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return min(picture.size)
    except Exception:
        return 0


def about(folder: Folder) -> list[str]:
    low, middle, high = folder.sides
    lines = [
        f"{folder.root}: {folder.contents}",
        f"shorter side of {folder.opened} pictures opened: {low} to {high} pixels, median {middle}",
    ]
    per_class = {name: train for name, (train, _) in folder.counts.items()}
    least, most = min(per_class, key=lambda n: per_class[n]), max(per_class, key=lambda n: per_class[n])
    lines.append(f"per class: {per_class[least]} ({least}) to {per_class[most]} ({most}) training pictures")
    if per_class[most] > 5 * max(per_class[least], 1):
        lines.append("the classes are far from equal in size: top-1 will mostly speak of the large ones")
    if untested := [name for name, (_, test) in folder.counts.items() if not test]:
        lines.append(f"without test pictures: {', '.join(untested[:5])}")
    if folder.broken:
        shown = ", ".join(str(path) for path in folder.broken[:5])
        lines.append(f"{len(folder.broken)} can't be decoded (remove or replace them before the run): {shown}")
    return lines

"""A look at a folder of pictures: classes, counts, sizes, what can't be opened."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from kdbench.counted import Counted
from kdbench.errors import UserError
from kdbench.plain import doing, several
from kdbench.vision.alike import alike, is_placeholder, look
from kdbench.vision.folder import parts_of, pictures

MOST_DECODED = 5000  # pictures that are opened in full
FEW_TO_TEST = 1500  # below that two students that differ by two points can't be told apart
SIZES = (32, 48, 64, 96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Folder(Counted):
    """What was found in a folder of pictures."""

    sides: tuple[int, int, int]  # the shorter side: smallest, median, largest of those opened
    opened: int
    broken: tuple[Path, ...]
    placeholders: tuple[Path, ...] = ()
    alike: tuple[tuple[Path, Path], ...] = ()  # pairs of those opened that look the same

    @property
    def leaks(self) -> list[tuple[Path, Path]]:
        """Those of `alike` of which one is to train on and one to test by."""
        train = self.root / "train"
        return [pair for pair in self.alike if pair[0].is_relative_to(train) != pair[1].is_relative_to(train)]

    @property
    def contents(self) -> str:
        return f"{len(self.counts)} classes, {self.num_train} pictures to train on, {self.num_test} to test"

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
        looks = list(pool.map(look, chosen))
    good = sorted(seen.side for seen in looks if seen.side)
    if not good:
        raise UserError(f"{root}: none of {len(chosen)} pictures can be opened, e.g. {chosen[0]}")
    broken = tuple(path for path, seen in zip(chosen, looks, strict=True) if not seen.side)
    placeholders = tuple(path for path, seen in zip(chosen, looks, strict=True) if is_placeholder(path, seen))
    counts = {name: (len(a), len(b)) for name, (a, b) in found.items()}
    sides = (good[0], good[len(good) // 2], good[-1])
    return Folder(root, counts, sides, len(chosen), broken, placeholders, tuple(alike(chosen, looks)))


def about(folder: Folder) -> list[str]:
    low, middle, high = folder.sides
    lines = [
        f"{folder.root}: {folder.contents}",
        f"shorter side of {folder.opened} pictures opened: {low} to {high} pixels, median {middle}",
        *folder.of_classes("pictures"),
    ]
    if folder.broken:
        shown = ", ".join(str(path) for path in folder.broken[:5])
        count, more = len(folder.broken), " ..." if len(folder.broken) > 5 else ""
        lines.append(
            f"{count} of these can't be decoded; the suite leaves such pictures out (`broken: skip`): {shown}{more}"
        )
    return [*lines, *suspects(folder), *what_it_can_decide(folder)]


def suspects(folder: Folder) -> list[str]:
    """Files that are hardly photographs of their class, and pictures that stand twice."""

    def named(paths: Sequence[Path]) -> str:
        shown = ", ".join(str(path.relative_to(folder.root)) for path in paths[:3])
        return shown + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

    lines = []
    if folder.placeholders:
        lines.append(f"placeholders or empty pictures? they count as photographs: {named(folder.placeholders)}")
    if leaks := folder.leaks:
        pair = " and ".join(str(path.relative_to(folder.root)) for path in leaks[0])
        count = doing(len(leaks), "test picture", "look")
        lines.append(f"{count} like training pictures, which flatters every score: e.g. {pair}")
    if within := [pair for pair in folder.alike if pair not in leaks]:
        pair = " and ".join(str(path.relative_to(folder.root)) for path in within[0])
        lines.append(f"{doing(len(within), 'picture', 'look')} like another one of the same part: e.g. {pair}")
    return lines


def what_it_can_decide(folder: Folder) -> list[str]:
    """Of few pictures: how well a score is known, and what two students must differ by.

    By the binomial's normal interval: of a score of 80%, and of the difference of two students that disagree on a fifth
    of the pictures.
    """
    if folder.num_test >= FEW_TO_TEST or not folder.num_test:
        return []
    if folder.num_test < 10:
        few = several(folder.num_test, "test picture")
        return [f"{few} can't tell two students apart: have more of them to test by"]
    score, difference = (100 * 1.96 * math.sqrt(share / folder.num_test) for share in (0.8 * 0.2, 0.2))
    return [
        f"{folder.num_test} test pictures: a score near 80% is known to ± {score:.0f} points, and two students must "
        f"differ by some {difference:.0f} points before anyone can tell which is better; more seeds don't change that, "
        "more test pictures do"
    ]

"""Your own pictures: a folder with train/ and val/ (or test/), each with one folder per class."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import psutil
from PIL import Image, ImageOps
from pydantic import Field

from kdbench.data import Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError
from kdbench.method.contract import Task
from kdbench.vision.batches import Images, picture_task
from kdbench.vision.builtin import images

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
Side = Annotated[int, Field(ge=4, le=1024)]


def info(data_dir: Path, path: str, size: int, broken: str) -> Task:
    """Counts the pictures; a folder that isn't there yet is taken to have ten classes of a hundred pictures."""
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        taken = "taken to hold 10 classes, 1,000 + 1,000 pictures; once it is there, keys will be others"
        print(f"{root} is not there yet: {taken}", file=sys.stderr)
        return picture_task(10, size, 1000, 1000)
    train, test, classes = parts_of(root)
    counts = [sum(len(pictures(part / name)) for name in classes) for part in (train, test)]
    return replace(picture_task(len(classes), size, *counts), classes=tuple(classes))


def digest(data_dir: Path, path: str, size: int, broken: str) -> str | None:
    """Of what is read: names of classes and pictures, and what is in the pictures."""
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        return None
    train, test, classes = parts_of(root)
    files: dict[str, str] = {}
    for part, place in (("train", train), ("test", test)):
        start = len(str(place)) + 1
        found = (str(file) for name in classes for file in pictures(place / name))
        files |= {f"{part}/{file[start:]}": file for file in found}
    return digest_of_files(files, classes)


@register_dataset("folder", info=info, digest=digest)
def folder(data_dir: Path, path: str, size: Side = 64, broken: Literal["stop", "skip"] = "stop") -> Splits:
    """Pictures of any size, brought to `size` x `size`: the shorter side is resized, the middle is cut out.

    `path` is relative to the data folder, or absolute. They are decoded once and kept in memory as uint8.
    `broken`: pictures that can't be read end the run (`stop`, the default) or are left out (`skip`); either way they
    are named.
    """
    train, test, classes = parts_of(data_dir / Path(path).expanduser())
    skip = broken == "skip"
    first, second = (_read(part, classes, size, skip) for part in (train, test))
    return Splits(first, second, len(classes), classes=tuple(classes))


def parts_of(root: Path) -> tuple[Path, Path, list[str]]:
    """The two parts and the class names. Raises UserError when the folder is laid out otherwise."""
    train, test = root / "train", root / next((name for name in ("val", "test") if (root / name).is_dir()), "val")
    for part in (train, test):
        if not part.is_dir():
            need = "it needs train/ and val/ (or test/), each with a folder per class"
            raise UserError(f"data set folder: {part} is not a folder; {need}")
    classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise UserError(f"data set folder: {train} needs two class folders or more; it has {len(classes)}")
    strange = sorted({entry.name for entry in test.iterdir() if entry.is_dir()} - set(classes))
    if strange:
        raise UserError(f"data set folder: {test} has classes that train/ lacks: {', '.join(strange[:5])}")
    return train, test, classes


def _read(root: Path, classes: list[str], size: int, skip: bool = False) -> Images:
    files = [(path, label) for label, name in enumerate(classes) for path in pictures(root / name)]
    if not files:
        raise UserError(f"data set folder: no pictures below {root} (looked for {' '.join(sorted(EXTENSIONS))})")
    needed = len(files) * size * size * 3 / 2**30
    if needed > 0.6 * psutil.virtual_memory().available / 2**30:
        what = f"{len(files)} pictures of {size} x {size} take {needed:.1f} GiB of memory"
        raise UserError(f"data set folder: {what}; choose a smaller size")
    pixels = np.empty((len(files), size, size, 3), dtype=np.uint8)
    broken: dict[int, Path] = {}
    for place, (path, _) in enumerate(files):
        try:
            with Image.open(path) as picture:
                pixels[place] = np.asarray(ImageOps.fit(picture.convert("RGB"), (size, size), Image.Resampling.BICUBIC))
        except Exception:
            broken[place] = path
    if broken:
        shown = ", ".join(str(path) for path in list(broken.values())[:5]) + (" ..." if len(broken) > 5 else "")
        what = f"data set folder: {len(broken)} of {len(files)} pictures below {root} can't be read: {shown}"
        if not skip:
            raise UserError(f"{what}; remove them, or give the data set `broken: skip`")
        print(f"{what}; they are left out", file=sys.stderr)
    whole = [place for place in range(len(files)) if place not in broken]
    return images(pixels[whole], [files[place][1] for place in whole])


def pictures(root: Path) -> list[Path]:
    """The picture files below `root`, sorted."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()) if root.is_dir() else []

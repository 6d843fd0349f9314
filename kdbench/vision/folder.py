"""Your own pictures: a folder with train/ and val/ (or test/), each with one folder per class."""

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdbench.data import Held, Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError
from kdbench.method.contract import Task
from kdbench.vision.batches import picture_task
from kdbench.vision.builtin import AUGMENTED
from kdbench.vision.parts import How, Labelled, held_as, how_of, splits_of
from kdbench.vision.sizing import CropSetting, prepared
from kdbench.vision.sources import Files

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
UNLABELLED = "unlabelled"
NEARLY = {
    "train": {"train", "training", "trainset"},
    "val": {"val", "valid", "validation", "eval", "dev"},
    "test": {"test", "testing", "testset"},
}
Side = Annotated[int, Field(ge=4, le=1024)]
Megapixels = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def info(data_dir: Path, path: str, size: int, unlabelled: bool | None = None, **_: object) -> Task:
    """Counts the pictures; a folder that isn't there yet is taken to have ten classes of a hundred pictures.

    Raises UserError for a class without pictures to learn from; says which have none to test.
    """
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        taken = "taken to hold 10 classes, 1,000 + 1,000 pictures; once it is there, keys will be others"
        beside = Path(path).expanduser()
        near = f"; did you mean {beside.resolve()}? `path` is below the data folder" if beside.is_dir() else ""
        print(f"{root} is not there yet: {taken}{near}", file=sys.stderr)
        return picture_task(10, size, 1000, 1000)
    train, test, classes = parts_of(root)
    counts = [[len(files_below(part / name)) for name in classes] for part in (train, test)]
    empty, untested = ([n for n, count in zip(classes, of_part, strict=True) if not count] for of_part in counts)
    if empty:
        raise UserError(f"data set folder: {train} has no pictures of {named(empty)}; remove the folders or fill them")
    if untested and len(untested) < len(classes):
        print(f"{test} has no pictures of {named(untested)}: nothing will be said of these classes", file=sys.stderr)
    num_train, num_test = sum(counts[0]) + len(unlabelled_of(root) if unlabelled else ()), sum(counts[1])
    return replace(picture_task(len(classes), size, num_train, num_test), classes=tuple(classes))


def named(classes: list[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def digest(data_dir: Path, path: str, unlabelled: bool | None = None, **_: object) -> str | None:
    """Of what is read: names of classes and pictures, and what is in the pictures."""
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        return None
    train, test, classes = parts_of(root)
    files: dict[str, str] = {}
    for part, place in (("train", train), ("test", test)):
        start = len(str(place)) + 1
        found = (file for name in classes for file in files_below(place / name))
        files |= {f"{part}/{file[start:]}": file for file in found}
    bare = unlabelled_of(root) if unlabelled else []
    files |= {os.path.relpath(file, root): file for file in bare}
    return digest_of_files(files, classes)


def prepare(size: int, test_crop: dict[str, Any] | None = None, **_: object) -> dict[str, object]:
    """As the test pictures come to be, for whoever uses the net."""
    return prepared(size, test_crop)


def held(data_dir: Path, path: str, **how: Any) -> Held:
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        return Held()
    return held_as(labelled_parts(root, how.get("unlabelled"))[0], how_of(**how))


@register_dataset("folder", info=info, digest=digest, prepare=prepare, held=held, **AUGMENTED)
def folder(
    data_dir: Path,
    path: str,
    size: Side = 64,
    broken: Literal["stop", "skip"] = "stop",
    max_megapixels: Megapixels | None = None,
    test_crop: CropSetting | None = None,
    natural: Literal[True] | None = None,
    unlabelled: Literal[True] | None = None,
) -> Splits:
    """Pictures of any size, brought to `size` x `size`: the shorter side is resized, the middle is cut out.

    `path` is relative to the data folder, or absolute. Up to 1 GiB of pixels is kept in memory; more is streamed, from
    a pack on the disk where there is room (`kdbench plan` says which). `broken`: pictures that can't be read end the
    run (`stop`, the default) or are left out (`skip`); either way they are named. `max_megapixels`: a picture with
    more can't be read (default: 50). `test_crop`: how test pictures are brought to `size`, `{share: 0.95,
    interpolation: bicubic}`: timm's evaluation, `share` is its `crop_pct` (default: as above). `natural`:
    training's `resized_crop` cuts from whole photographs. `unlabelled`: pictures below unlabelled/, beside train/, are
    trained on, too; they have no label (docs/nets.md). Hidden folders and files (`.name`) are passed over.
    """
    labelled, classes = labelled_parts(data_dir / Path(path).expanduser(), unlabelled)
    how = How(size, max_megapixels, broken == "skip", test_crop, bool(natural))
    return splits_of("folder", labelled, classes, how, digest(data_dir, path, unlabelled) or "")


def labelled_parts(root: Path, unlabelled: bool | None) -> tuple[list[Labelled], list[str]]:
    """Training and test pictures with their labels, -1 where there is none, and the classes' names."""
    train, test, classes = parts_of(root)
    bare = unlabelled_of(root) if unlabelled else []
    return [_labelled(train, classes, bare), _labelled(test, classes)], classes


def unlabelled_of(root: Path) -> list[str]:
    """Pictures without a class. Raises UserError where there are none."""
    if found := files_below(root / UNLABELLED):
        return found
    raise UserError(f"data set folder: no pictures below {root / UNLABELLED}, which `unlabelled` asks for")


def parts_of(root: Path) -> tuple[Path, Path, list[str]]:
    """The two parts and the class names. Raises UserError when the folder is laid out otherwise."""
    if not root.is_dir():
        siblings = folders(root.parent) if root.parent.is_dir() else []
        near = get_close_matches(root.name, siblings, 1)
        raise UserError(f"data set folder: {root} is no folder" + (f"; did you mean {near[0]!r}?" if near else ""))
    train, test = root / "train", root / next((name for name in ("val", "test") if (root / name).is_dir()), "val")
    for part in (train, test):
        if not part.is_dir():
            need = "it needs train/ and val/ (or test/), each with a folder per class"
            raise UserError(f"data set folder: {part} is not a folder; {need}{_advice(root)}")
    classes = folders(train)
    if len(classes) < 2:
        raise UserError(f"data set folder: {train} needs two class folders or more; it has {len(classes)}")
    strange = sorted(set(folders(test)) - set(classes))
    if strange:
        lost = {name.lower(): name for name in classes if name not in folders(test)}
        near = get_close_matches(strange[0].lower(), list(lost), 1)
        advice = f"; is {strange[0]!r} another spelling of {lost[near[0]]!r}?" if near else ""
        raise UserError(f"data set folder: {test} has classes that train/ lacks: {', '.join(strange[:5])}{advice}")
    return train, test, classes


def _advice(root: Path) -> str:
    """What to do with a folder that nearly fits."""
    below = folders(root)
    if inner := next((name for name in below if (root / name / "train").is_dir()), None):
        return f". Did you mean {root / inner}?"
    wrong = {name: part for name in below for part, names in NEARLY.items() if name.lower() in names and name != part}
    if wrong:
        return ". Rename " + ", ".join(f"{name}/ to {part}/" for name, part in wrong.items())
    if len(below) > 1 and all(files_below(root / name) for name in below) and not {"train", "val", "test"} & {*below}:
        few = "move some of each class (a fifth, say) to val/CLASS/ and the others to train/CLASS/"
        return f". {named(below)} look like classes: {few}"
    if any(entry.suffix.lower() in EXTENSIONS for entry in root.iterdir()):
        return ". Pictures lie in it without a folder that says their class"
    return ""


def folders(root: Path) -> list[str]:
    """Their names, without hidden ones (`.ipynb_checkpoints`) and what macOS puts into archives."""
    names = (entry.name for entry in root.iterdir() if entry.is_dir())
    return sorted(name for name in names if not name.startswith(".") and name != "__MACOSX")


def _labelled(root: Path, classes: list[str], bare: Sequence[str] = ()) -> Labelled:
    """The picture files of a part, class by class, and their labels; after them `bare` ones, whose label is -1."""
    found = [(path, label) for label, name in enumerate(classes) for path in files_below(root / name)]
    if not found:
        raise UserError(f"data set folder: no pictures below {root} (looked for {' '.join(sorted(EXTENSIONS))})")
    found += [(path, -1) for path in bare]
    return Labelled(str(root), Files([path for path, _ in found]), [label for _, label in found])


def pictures(root: Path) -> list[Path]:
    """The picture files below `root`, sorted; hidden ones, and those in hidden folders, are passed over."""
    return [Path(name) for name in files_below(root)]


def files_below(root: Path) -> list[str]:
    """As `pictures`, as text: a folder may hold a million, and each is looked at whenever a suite is read."""
    found: list[str] = []
    places, nested = [str(root)], False
    while places:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(places.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    places.append(entry.path)
                    nested = True
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS and entry.is_file():
                    found.append(entry.path)
    return sorted(found, key=(lambda path: path.split(os.sep)) if nested else None)

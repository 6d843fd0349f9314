"""Pictures in tar files: train.tar or train/*.tar, and the same for val (or test).

A picture's class is in its `.cls` file, as in WebDataset's shards; without one it is its folder in the tar, without
a folder the tar's name (one tar per class, as ImageNet comes). Nothing is unpacked: where each picture lies is noted,
and it is read from there, in any order and by several threads. (timm's readers of tars share one file among threads,
and its reader of WebDataset's shards has no picture by number.)
"""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from kdbench.data import Held, Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError, first_line
from kdbench.files import cache_folder, read_checked, write_checked
from kdbench.method.contract import Task
from kdbench.vision.batches import picture_task
from kdbench.vision.builtin import AUGMENTED
from kdbench.vision.folder import EXTENSIONS, Megapixels, Side, prepare
from kdbench.vision.parts import How, Labelled, held_as, how_of, splits_of
from kdbench.vision.sizing import CropSetting

PARTS = {"train": ("train",), "test": ("val", "test")}


class Entry(NamedTuple):
    """A picture within a tar file."""

    name: str
    offset: int
    size: int
    label: str
    told: bool  # is it what a .cls file says, and not the place where the picture lies?


@dataclass(frozen=True)
class TarFiles:
    """A `Source` of pictures in tar files."""

    entries: Sequence[tuple[str, Entry]]  # the tar file, and what is in it

    def __len__(self) -> int:
        return len(self.entries)

    def name(self, place: int) -> str:
        archive, entry = self.entries[place]
        return f"{archive}:{entry.name}"

    def content(self, place: int) -> bytes:
        archive, entry = self.entries[place]
        file = os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(file, entry.size, entry.offset)
        finally:
            os.close(file)


def archives_of(root: Path, part: str) -> list[Path]:
    """The tar files of `train` or `test`, by name. Raises UserError where there are none."""
    for name in PARTS[part]:
        single, folder = root / f"{name}.tar", root / name
        found = [single] if single.is_file() else sorted(folder.glob("*.tar"))
        if found := [path for path in found if not path.name.startswith(".")]:
            return found
    names = " or ".join(f"{name}.tar or {name}/*.tar" for name in PARTS[part])
    raise UserError(f"data set tar: {root} has no tar files to {'learn from' if part == 'train' else 'test'}: {names}")


def entries_of(archive: Path) -> list[Entry]:
    """The pictures in a tar file, in its order. What was found is kept for the next time. Raises UserError."""
    about = archive.stat()
    stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
    kept = cache_folder("tars") / f"{hashlib.sha256(os.fsencode(archive.resolve())).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        known = json.loads(read_checked(kept))
        if known["stamp"] == stamp:
            return [Entry(str(n), int(o), int(s), str(label), bool(t)) for n, o, s, label, t in known["entries"]]
    try:
        found = _listed(archive)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"data set tar: {archive} can't be read: {first_line(error)}") from error
    with suppress(OSError):  # then it is listed again the next time
        write_checked(kept, json.dumps({"stamp": stamp, "entries": found}, separators=(",", ":")).encode())
    return found


def _listed(archive: Path) -> list[Entry]:
    pictures: list[tarfile.TarInfo] = []
    classes: dict[str, str] = {}  # a picture's name without its ending -> what its .cls file says
    with tarfile.open(archive, "r:") as tar:  # uncompressed: else nothing could be read from its place
        for member in tar:
            ending = PurePosixPath(member.name).suffix.lower()
            if not member.isreg() or any(part.startswith(".") for part in PurePosixPath(member.name).parts[-1:]):
                continue
            if ending in EXTENSIONS:
                pictures.append(member)
            elif ending == ".cls" and (file := tar.extractfile(member)):
                classes[_stem(member.name)] = file.read(1000).decode("utf-8", "replace").strip()
    return [Entry(m.name, m.offset_data, m.size, *_label(archive, m.name, classes)) for m in pictures]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _label(archive: Path, name: str, classes: dict[str, str]) -> tuple[str, bool]:
    """The class, and whether a .cls file says it."""
    if said := classes.get(_stem(name)):
        return said, True
    return PurePosixPath(name).parent.name or archive.stem, False


def part_of(root: Path, part: str) -> list[tuple[str, Entry]]:
    """The pictures of `train` or `test`. Raises UserError where .cls files tell the classes of some of them only."""
    found = [(str(archive), entry) for archive in archives_of(root, part) for entry in entries_of(archive)]
    untold = [f"{archive}:{entry.name}" for archive, entry in found if not entry.told]
    if 0 < len(untold) < len(found):
        shown = ", ".join(untold[:5]) + (" ..." if len(untold) > 5 else "")
        raise UserError(f"data set tar: {len(untold)} of {len(found)} pictures have no class in a .cls file: {shown}")
    return found


def classes_of(labels: Iterable[str]) -> list[str]:
    """In order; numbers by their value."""
    found = set(labels)
    return sorted(found, key=int) if all(label.isdecimal() for label in found) else sorted(found)


def labelled_parts(root: Path) -> tuple[list[Labelled], list[str]]:
    """Training and test pictures with their labels, and the classes' names. Raises UserError."""
    if not root.is_dir():
        raise UserError(f"data set tar: {root} is not a folder")
    parts = {part: part_of(root, part) for part in PARTS}
    classes = classes_of(entry.label for _, entry in parts["train"])
    strange = sorted({entry.label for _, entry in parts["test"]} - set(classes))
    if len(classes) < 2 or not parts["test"]:
        raise UserError(f"data set tar: {root} needs pictures of two classes or more, and some to test")
    if strange:
        raise UserError(f"data set tar: test pictures of classes that training lacks: {', '.join(strange[:5])}")
    place = {name: label for label, name in enumerate(classes)}
    made = [
        Labelled(str(root / part), TarFiles(entries), [place[entry.label] for _, entry in entries])
        for part, entries in parts.items()
    ]
    return made, classes


def info(data_dir: Path, path: str, size: int, **_: object) -> Task:
    (train, test), classes = labelled_parts(data_dir / Path(path).expanduser())
    task = picture_task(len(classes), size, len(train.labels), len(test.labels))
    return replace(task, classes=tuple(classes))


def digest(data_dir: Path, path: str, **_: object) -> str | None:
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        return None
    return digest_of_files({f"{part}/{file.name}": str(file) for part in PARTS for file in archives_of(root, part)})


def held(data_dir: Path, path: str, **how: Any) -> Held:
    return held_as(labelled_parts(data_dir / Path(path).expanduser())[0], how_of(**how))


@register_dataset("tar", info=info, digest=digest, **AUGMENTED, prepare=prepare, held=held)
def tar(
    data_dir: Path,
    path: str,
    size: Side = 64,
    broken: Literal["stop", "skip"] = "stop",
    max_megapixels: Megapixels | None = None,
    test_crop: CropSetting | None = None,
    natural: Literal[True] | None = None,
) -> Splits:
    """Pictures in tar files, WebDataset's shards too: `path` holds train.tar or train/*.tar, and val (or test) alike.

    A picture's class is in its .cls file, else its folder in the tar, else the tar's name. All else is as for `folder`.
    """
    labelled, classes = labelled_parts(data_dir / Path(path).expanduser())
    how = How(size, max_megapixels, broken == "skip", test_crop, bool(natural))
    return splits_of("tar", labelled, classes, how, digest(data_dir, path) or "")

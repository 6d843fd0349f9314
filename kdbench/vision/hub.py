"""Pictures of a Hugging Face data set, through timm's reader: by its name on the hub, or a folder of its files.

Needs the package `datasets` (`pip install 'kdbench[hub]'`). Only files of data are read: no code of a data set is run.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdbench.data import Held, Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Task
from kdbench.vision.batches import picture_task
from kdbench.vision.builtin import AUGMENTED
from kdbench.vision.folder import Megapixels, Side, prepare
from kdbench.vision.parts import How, Labelled, held_as, how_of, splits_of
from kdbench.vision.sizing import CropSetting


class HubFiles:
    """A `Source` of the pictures that a reader of timm's has. One thread at a time asks it."""

    def __init__(self, reader: Any, title: str) -> None:
        self.reader, self.title = reader, title
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, place: int) -> str:
        return f"{self.title}, picture {place}"

    def content(self, place: int) -> bytes:
        with self._lock:
            file, *_ = self.reader[place]
            with file:
                return bytes(file.read())


@dataclass(frozen=True)
class Columns:
    """What a data set calls its parts and columns."""

    train: str
    test: str
    image: str
    label: str


def read_part(data_dir: Path, path: str, split: str, columns: Columns) -> tuple[Labelled, list[str]]:
    """The pictures of one part with their labels, and the classes' names. Raises UserError."""
    try:
        from timm.data.readers.reader_hfds import ReaderHfds
    except ImportError as error:
        raise UserError("data set hfds: it needs the package datasets: pip install 'kdbench[hub]'") from error
    folder = local_folder(data_dir, path)
    try:
        reader = ReaderHfds(str(folder or path), split=split, input_key=columns.image, target_key=columns.label)
        labels = [int(label) for label in reader.dataset[columns.label]]
        names = list(reader.dataset.features[columns.label].names)
    except Exception as error:
        raise UserError(f"data set hfds: {path}, {split}, can't be read: {first_line(error)}") from error
    if wrong := [label for label in labels if not 0 <= label < len(names)]:
        raise UserError(f"data set hfds: {path}, {split}, has {len(wrong)} pictures without a label")
    return Labelled(f"{path}, {split}", HubFiles(reader, f"{path}, {split}"), labels), names


def local_folder(data_dir: Path, path: str) -> Path | None:
    """None where `path` names a data set on the hub."""
    folder = data_dir / Path(path).expanduser()
    return folder if folder.is_dir() else None


def read(data_dir: Path, path: str, columns: Columns) -> tuple[list[Labelled], list[str]]:
    """Training and test pictures, and the classes' names. Raises UserError."""
    (train, classes), (test, others) = (
        read_part(data_dir, path, split, columns) for split in (columns.train, columns.test)
    )
    if classes != others:
        raise UserError(f"data set hfds: {path}: {columns.train} and {columns.test} have other classes")
    return [train, test], classes


def columns_of(train: str, test: str, image: str, label: str, **_: object) -> Columns:
    """Of the data set's settings."""
    return Columns(train, test, image, label)


def info(data_dir: Path, path: str, size: int, **settings: Any) -> Task:
    (train, test), classes = read(data_dir, path, columns_of(**settings))
    task = picture_task(len(classes), size, len(train.labels), len(test.labels))
    return replace(task, classes=tuple(classes))


def digest(data_dir: Path, path: str, **settings: Any) -> str:
    """Of a folder's files; of a data set on the hub what `datasets` tells it by, its commit included."""
    about = columns_of(**settings)
    named = (about.train, about.test, about.image, about.label)
    if folder := local_folder(data_dir, path):
        return digest_of_files(dict(files_in(folder)), named)
    parts, _ = read(data_dir, path, about)
    return " ".join(str(part.source.reader.dataset._fingerprint) for part in parts)  # type: ignore[attr-defined]


def files_in(folder: Path) -> Iterable[tuple[str, str]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    names = ((path.relative_to(folder), path) for path in found)
    return ((name.as_posix(), str(path)) for name, path in names if not any(p.startswith(".") for p in name.parts))


def held(data_dir: Path, path: str, **settings: Any) -> Held:
    return held_as(read(data_dir, path, columns_of(**settings))[0], how_of(**settings))


@register_dataset("hfds", info=info, digest=digest, **AUGMENTED, prepare=prepare, held=held)
def hfds(
    data_dir: Path,
    path: str,
    size: Side = 64,
    broken: Literal["stop", "skip"] = "stop",
    max_megapixels: Megapixels | None = None,
    train: str = "train",
    test: str = "validation",
    image: str = "image",
    label: str = "label",
    test_crop: CropSetting | None = None,
    natural: Literal[True] | None = None,
) -> Splits:
    """A Hugging Face data set: `path` is its name on the hub, or a folder with its files (`train-*.parquet`, ...).

    `train` and `test` name its parts, `image` and `label` its columns. All else is as for `folder`.
    """
    columns = Columns(train, test, image, label)
    parts, classes = read(data_dir, path, columns)
    how = How(size, max_megapixels, broken == "skip", test_crop, bool(natural))
    return splits_of("hfds", parts, classes, how, digest(data_dir, path, **vars(columns)))

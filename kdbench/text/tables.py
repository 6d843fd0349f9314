"""Labelled texts from files: tables (CSV, TSV, JSON lines, Parquet) and folders of .txt, one folder a class."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, first_line, unknown

Row = dict[str, Any]
KINDS = (".csv", ".tsv", ".jsonl", ".parquet")
LARGEST = 2**27  # characters of one entry of a table: Python's own limit would refuse a long text
PARTS = {"train": ("train", "training"), "test": ("val", "validation", "dev", "test")}


def delimited(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(LARGEST)
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter=delimiter, strict=True)
        for row in table:
            if None in row or None in row.values():
                what = f"{len(table.fieldnames or ())} columns in its head, another number here"
                raise UserError(f"{path}:{table.line_num}: {what}; texts with a {delimiter!r} stand in quotes")
            yield row


def json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: no JSON: {error}") from error
            if "\\u" in line and not is_writable(row):
                raise UserError(f"{path}:{number}: holds half of a pair of \\u escapes, which is no character")
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: a line must be a table {{column: value}}")
            yield row


def is_writable(row: Any) -> bool:
    """Can it be written as UTF-8? A lone surrogate can't."""
    text = json.dumps(row, ensure_ascii=False)
    return text.encode(errors="ignore").decode() == text


def parquet(path: Path) -> Iterator[Row]:
    import pandas as pd

    for row in pd.read_parquet(path).to_dict("records"):
        yield {str(name): value for name, value in row.items()}


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".csv": lambda path: delimited(path, ","),
    ".tsv": lambda path: delimited(path, "\t"),
    ".jsonl": json_lines,
    ".parquet": parquet,
}


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever a reader raises names its file."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: can't be read as a {path.suffix} file in UTF-8: {first_line(error)}") from error


def rows_of(path: Path) -> list[Row]:
    """All rows. Raises UserError naming file and line."""
    with told(path):
        rows = list(READERS[path.suffix.lower()](path))
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def rows_of_folder(folder: Path, text: str, label: str) -> list[Row]:
    """Every .txt below `folder`/CLASS as a row with the columns `text` and `label`; hidden files are passed over."""
    rows: list[Row] = []
    for path in text_files(folder):
        with told(path):
            rows.append({text: path.read_text(encoding="utf-8-sig"), label: path.relative_to(folder).parts[0]})
    if not rows:
        raise UserError(f"{folder}: no .txt below folders of classes")
    return rows


def text_files(folder: Path) -> list[Path]:
    found = (path for path in folder.glob("*/**/*.txt") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def part_of(root: Path, part: str, chosen: str | None = None) -> Path:
    """The file or folder of a part, `train` or `test`: `train.csv`, `train/`, `dev.tsv`, ...; `chosen`: its very name.

    Raises UserError where there is none, or it could be several.
    """
    names = (chosen,) if chosen else PARTS[part]
    found = [path for name in names for path in files_of(root, name)]
    if len(found) > 1:
        hint = (
            "; which are nets judged by? `judged_on: NAME` says" if found[0].stem != found[1].stem else "; which is it?"
        )
        raise UserError(f"{root}: both {found[0].name} and {found[1].name}{hint}")
    if found:
        return found[0]
    wanted = " or ".join(names)
    raise UserError(f"{root}: needs {wanted}, a folder with a folder per class, or a file ({', '.join(KINDS)})")


def files_of(root: Path, name: str) -> list[Path]:
    """All that may be the part of that name."""
    found = [path for path in (root / f"{name}{kind}" for kind in KINDS) if path.is_file()]
    return found + ([root / name] if (root / name).is_dir() else [])


def column(rows: list[Row], name: str, path: Path) -> list[Any]:
    """One column. Raises UserError with the nearest name, or the row where it is empty."""
    if name not in rows[0]:
        raise UserError(f"{path}: {unknown('column', name, map(str, rows[0]))}")
    values = [row.get(name) for row in rows]
    if None in values or any(value != value for value in values):
        empty = next(place for place, value in enumerate(values) if value is None or value != value)
        raise UserError(f"{path}: row {empty + 1} has no {name!r}")
    return values

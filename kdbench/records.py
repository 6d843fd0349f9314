"""Records: one JSON file per cell, the only source of truth. Written aside, flushed to disk, renamed."""

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from kdbench.errors import UserError

STATUSES = ("done", "diverged", "failed", "skipped")
TEXTS = ("key", "suite", "dataset", "teacher", "student", "label", "status")
TABLES = ("scores", "settings")
REQUIRED = (*TEXTS, *TABLES, "seed")
OPTIONAL_TABLES = ("profile", "cost", "curves", "versions")

Record = dict[str, Any]


def write_atomic(path: Path, content: bytes) -> None:
    """Either the whole content stands under `path`, or what stood there before; also if the machine dies.

    Raises OSError naming `path` when it can't be written (full, read-only).
    """
    try:
        _write_aside(path, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _write_aside(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Strict JSON: numbers are numbers, and NaN or infinity is a programmer's mistake here."""
    write_atomic(path, (json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


class Records:
    """The records of one suite in `results/<suite>/records/`."""

    def __init__(self, results: Path, suite: str) -> None:
        self.folder = results / suite / "records"
        self.damaged: list[str] = []

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def write(self, record: Record) -> None:
        write_json(self.path(record["key"]), record)

    def read(self, key: str) -> Record | None:
        """None when there is none, or when the file is damaged (noted in `damaged`): such a cell is done again."""
        try:
            return read_record(self.path(key))
        except FileNotFoundError:
            return None
        except UserError as error:
            if str(error) not in self.damaged:
                self.damaged.append(str(error))
            return None

    def read_all(self) -> list[Record]:
        found = (self.read(path.stem) for path in sorted(self.folder.glob("*.json")))
        return [record for record in found if record is not None]

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        found = ((key, self.read(key)) for key in keys)
        return {key: record for key, record in found if record is not None}


def read_record(path: Path) -> Record:
    """One record. Raises FileNotFoundError, or UserError when the file is no record."""
    try:
        record = from_json(path.read_bytes())  # 5 times as fast as json.loads, and as exact
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"record {path} can't be read ({error}); its cell counts as not done") from error
    if not isinstance(record, dict) or not all(name in record for name in REQUIRED):
        lacking = [name for name in REQUIRED if not isinstance(record, dict) or name not in record]
        raise UserError(f"record {path} lacks {', '.join(lacking)}; its cell counts as not done")
    if str(record["status"]) not in STATUSES or record["key"] != path.stem:
        raise UserError(f"record {path} is no record of this cell; its cell counts as not done")
    if wrong := _wrong_types(record):
        raise UserError(f"record {path}: {', '.join(wrong)} of a wrong type; its cell counts as not done")
    return record


def _wrong_types(record: Record) -> list[str]:
    """Names of fields that no table could be made from."""
    wrong = [name for name in TEXTS if not isinstance(record[name], str)]
    wrong += [name for name in TABLES if not isinstance(record[name], dict)]
    wrong += [name for name in OPTIONAL_TABLES if not isinstance(record.get(name) or {}, dict)]
    if not isinstance(record["seed"], int):
        wrong.append("seed")
    if isinstance(record["scores"], dict) and not all(_is_number(value) for value in record["scores"].values()):
        wrong.append("scores")
    if isinstance(record.get("profile"), dict) and not all(isinstance(v, dict) for v in record["profile"].values()):
        wrong.append("profile")
    if isinstance(record.get("curves"), dict) and not all(isinstance(v, list) for v in record["curves"].values()):
        wrong.append("curves")
    if record["status"] == "done" and not wrong and not isinstance(record["scores"].get("test_top1"), int | float):
        wrong.append("scores")
    return wrong


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def finite(value: Any) -> Any:
    """The same data with numbers that JSON can't hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value


def is_final(record: Record | None) -> bool:
    """Done cells and diverged ones (they would diverge again) are not run again; failed ones are."""
    return record is not None and record["status"] in ("done", "diverged")

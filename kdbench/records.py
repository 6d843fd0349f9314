"""Records: one JSON file per cell, the only source of truth. Written aside, flushed to disk, renamed."""

import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kdbench.errors import UserError

STATUSES = ("done", "diverged", "failed", "skipped")
REQUIRED = ("key", "suite", "dataset", "teacher", "student", "label", "seed", "status", "scores", "settings")

Record = dict[str, Any]


def write_atomic(path: Path, content: bytes) -> None:
    """Either the whole content stands under `path`, or what stood there before; also if the machine dies."""
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
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"record {path} can't be read ({error}); its cell counts as not done") from error
    if not isinstance(record, dict) or not all(name in record for name in REQUIRED):
        lacking = [name for name in REQUIRED if not isinstance(record, dict) or name not in record]
        raise UserError(f"record {path} lacks {', '.join(lacking)}; its cell counts as not done")
    if record["status"] not in STATUSES or not isinstance(record["scores"], dict) or record["key"] != path.stem:
        raise UserError(f"record {path} is no record of this cell; its cell counts as not done")
    return record


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

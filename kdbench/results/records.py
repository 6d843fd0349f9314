"""Records: one JSON file per cell, the only source of truth. Written aside, flushed to disk, renamed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, FiniteFloat, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # typing's own is too old for pydantic before Python 3.12

from kdbench.errors import UserError
from kdbench.files import write_json
from kdbench.layout import Layout

Number = int | FiniteFloat | None


@with_config(ConfigDict(extra="allow", strict=True))
class Shape(TypedDict):
    """What tables are made from, and its types; a file that is otherwise is no record."""

    key: str
    suite: str
    dataset: str
    teacher: str
    student: str
    label: str
    seed: int
    status: Literal["done", "diverged", "failed", "skipped"]
    scores: dict[str, Number]
    settings: dict[str, Any]
    reason: NotRequired[str | None]
    finished: NotRequired[str | None]
    curves: NotRequired[dict[str, list[Number]] | None]
    profile: NotRequired[dict[str, dict[str, Number | str]] | None]
    cost: NotRequired[dict[str, Number] | None]
    versions: NotRequired[dict[str, Number | str | dict[str, str]] | None]


RECORD: TypeAdapter[Any] = TypeAdapter(Shape)  # reads and checks in less time than json.loads reads
Record = dict[str, Any]


class Records:
    """The records of one suite in `results/<suite>/records/`."""

    def __init__(self, results: Path, suite: str) -> None:
        self.place = Layout(results).suite(suite)
        self.folder = self.place.records
        self.damaged: list[str] = []

    def path(self, key: str) -> Path:
        return self.place.record(key)

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
        record: Record = RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = "can't be read" if first["type"] == "json_invalid" else "is no record"
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"record {path} {what} ({reason}); its cell counts as not done") from error
    except OSError as error:
        raise UserError(f"record {path} can't be read ({error.strerror}); its cell counts as not done") from error
    if record["key"] != path.stem:
        raise UserError(f"record {path} is that of another cell; its cell counts as not done")
    if record["status"] == "done" and record["scores"].get("test_top1") is None:
        raise UserError(f"record {path} is done without a score; its cell counts as not done")
    return record


def is_final(record: Record | None) -> bool:
    """Done cells and diverged ones (they would diverge again) are not run again; failed ones are."""
    return record is not None and record["status"] in ("done", "diverged")

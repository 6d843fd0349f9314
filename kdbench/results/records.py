"""Records: one JSON file per cell, the only source of truth. Written aside, flushed to disk, renamed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kdbench.errors import UserError
from kdbench.files import write_json
from kdbench.layout import Layout, suite_of_record
from kdbench.plain import harmless
from kdbench.results.answers import make_whole
from kdbench.results.schema import Record, judged


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

    def iterate(self, keys: Iterable[str] | None = None) -> Iterator[Record]:
        """The records of `keys`, else all of them by name; one is in memory at a time."""
        names = (path.stem for path in sorted(self.folder.glob("*.json"))) if keys is None else keys
        for key in names:
            if (record := self.read(key)) is not None:
                yield record

    def read_all(self) -> list[Record]:
        return list(self.iterate())

    def read_many(self, keys: Iterable[str]) -> dict[str, Record]:
        return {record["key"]: record for record in self.iterate(keys)}


def read_record(path: Path) -> Record:
    """One record. Raises FileNotFoundError, or UserError when the file is no record."""
    try:
        record = judged(path.read_bytes(), path.stem)
        make_whole(record, suite_of_record(path))
        return record
    except FileNotFoundError:
        raise
    except UserError as error:
        raise UserError(f"record {harmless(str(path))} {error}; its cell counts as not done") from error
    except OSError as error:
        where = harmless(str(path))
        raise UserError(f"record {where} can't be read ({error.strerror}); its cell counts as not done") from error


def is_final(record: Record | None) -> bool:
    """Done cells and diverged ones (they would diverge again) are not run again; failed ones are."""
    return record is not None and record["status"] in ("done", "diverged")

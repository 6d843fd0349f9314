"""Records from elsewhere: other results folders, an MLflow server. Merged by key, so that no cell counts twice."""

import json
import math
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, first_line
from kdbench.layout import Layout
from kdbench.results.mlflow_runs import completed_runs, download_record
from kdbench.results.records import Record, Records, is_final


def slim(record: Record) -> Record:
    """The record without what no leaderboard shows, most of its curves: ten thousand must fit into memory."""
    top1 = (record.get("curves") or {}).get("test_top1")
    curves = {"test_top1": array("f", top1)} if top1 and None not in top1 else {}
    classes = record.get("test_top1_per_class") or []
    numbers = array("d", (math.nan if value is None else value for value in classes))
    alike = {"settings": {"objective": record["settings"].get("objective")}}
    alike |= {name: record[name] for name in ("profile", "versions") if name in record}
    alike = {name: _shared(json.dumps(part)) for name, part in alike.items()}
    return {**record, **alike, "curves": curves, "test_top1_per_class": numbers}


@lru_cache(maxsize=1000)
def _shared(text: str) -> Any:
    """One object for what many records say alike."""
    return json.loads(text)


def from_results(results: Path, suite: str, keys: Iterable[str]) -> dict[str, Record]:
    """The records of `keys`, slim."""
    store = Records(results, suite)
    found = ((key, store.read(key)) for key in keys)
    return {key: slim(record) for key, record in found if record is not None}


def merged(records: dict[str, Record], others: Iterable[Record]) -> dict[str, Record]:
    """`records` completed by `others`: a finished record is kept before one that isn't, ours before another's."""
    found = dict(records)
    for record in others:
        if not is_final(found.get(record["key"])) and (is_final(record) or record["key"] not in found):
            found[record["key"]] = record
    return found


def from_folders(folders: Sequence[Path], suite: str) -> list[Record]:
    """All records of a suite below other results folders. Raises UserError when a folder has none."""
    found: list[Record] = []
    for folder in folders:
        records = Records(folder, suite).read_all()
        if not records:
            place = Layout(folder).suite(suite).records
            raise UserError(f"--also {folder}: no record of suite {suite!r} (looked in {place})")
        found += records
    return [slim(record) for record in found]


def from_mlflow(uri: str, suite: str) -> list[Record]:
    """All records in a suite's experiment. Raises UserError when there is none."""
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        with tempfile.TemporaryDirectory() as folder:
            found = [download_record(client, run, Path(folder)) for run in completed_runs(client, suite)]
    except Exception as error:
        raise UserError(f"--from-mlflow {uri}: {first_line(error)}") from error
    if not found:
        raise UserError(f"--from-mlflow {uri}: no finished cell of suite {suite!r}")
    return [slim(record) for record in found]

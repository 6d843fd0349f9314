"""Records from elsewhere: other results folders, an MLflow server. Merged by key, so that no cell counts twice."""

import json
import math
import tempfile
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.data import NOT_THERE
from kdbench.errors import UserError, first_line
from kdbench.layout import Layout
from kdbench.method.metric import metric_of
from kdbench.results.held_out import with_delivered
from kdbench.results.mlflow_runs import completed_runs, download_record
from kdbench.results.records import Records, is_final
from kdbench.results.schema import DIGESTS, Record, judged
from kdbench.suite.cells import Cell

OWN_SETTINGS = ("objective", "seed")  # the other settings of a record are mostly those of many
MOST_TOLD = 10  # of refused records, in an error


def slim(record: Record) -> Record:
    """The record without what no leaderboard shows, most of its curves: ten thousand must fit into memory."""
    score = metric_of(record).test
    curve = (record.get("curves") or {}).get(score)
    curves = {score: array("f", curve)} if curve and None not in curve else {}
    classes = record.get("test_top1_per_class") or []
    numbers = array("d", (math.nan if value is None else value for value in classes))
    alike: Record = {name: _shared(json.dumps(record[name])) for name in ("profile", "versions") if name in record}
    own = {name: part for name, part in record["settings"].items() if name in OWN_SETTINGS}
    common = {name: part for name, part in record["settings"].items() if name not in own}
    settings = {**_shared(json.dumps(common)), **own}
    rest: Record = {name: value for name, value in record.items() if name != DIGESTS}
    rest["scores"] = with_delivered(record)
    return {**rest, **alike, "settings": settings, "curves": curves, "test_top1_per_class": numbers}


@lru_cache(maxsize=4096)
def _shared(text: str) -> Any:
    """One object for what many records say alike."""
    return json.loads(text)


@dataclass
class Found:
    """Records by key, and what was refused, in words. A finished record is kept before one that isn't, the first one
    before others."""

    records: dict[str, Record] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            known = self.records.get(record["key"])
            if not is_final(known) and (is_final(record) or known is None):
                self.records[record["key"]] = record


def from_results(found: Found, results: Path, suite: str, keys: Iterable[str] | None = None) -> None:
    """The records of `keys` (None: all of them) in a results folder, slim."""
    store = Records(results, suite)
    found.add(map(slim, store.iterate(keys)))
    found.refused += store.damaged


def from_folders(found: Found, folders: Sequence[Path], suite: str) -> None:
    """All records of a suite below other results folders. Raises UserError when a folder has none."""
    for folder in folders:
        here = Found()
        from_results(here, folder, suite)
        if not here.records:
            place = Layout(folder).suite(suite).records
            why = "\n".join(["", *here.refused[:MOST_TOLD]])
            raise UserError(f"--also {folder}: no record of suite {suite!r} (looked in {place}){why}")
        found.add(here.records.values())
        found.refused += here.refused


def from_mlflow(found: Found, uri: str, suite: str) -> None:
    """All records in a suite's experiment. Raises UserError when there is none."""
    from mlflow import MlflowClient

    here = Found()
    try:
        client = MlflowClient(tracking_uri=uri)
        with tempfile.TemporaryDirectory() as folder:
            for run in completed_runs(client, suite):
                content = download_record(client, run, Path(folder))
                try:
                    here.add([slim(judged(content))])
                except UserError as error:
                    here.refused.append(f"the record of MLflow's run {run} {error}; it does not count")
    except Exception as error:
        raise UserError(f"--from-mlflow {uri}: {first_line(error)}") from error
    if not here.records:
        why = "\n".join(["", *here.refused[:MOST_TOLD]])
        raise UserError(f"--from-mlflow {uri}: no finished cell of suite {suite!r}{why}")
    found.add(here.records.values())
    found.refused += here.refused


def with_recorded_data(cells: list[Cell], records: Iterable[Record]) -> tuple[list[Cell], list[str]]:
    """Cells whose data are not there get the digest that their records tell, so that a table needs no data.

    Where they tell several, that of the record which was finished last; the second value says so.
    """
    absent = {json.dumps(cell.data_identity["dataset"], sort_keys=True) for cell in cells if cell.data == NOT_THERE}
    known: dict[str, dict[str, str]] = {name: {} for name in absent}  # data set -> digest -> when it was last used
    for record in records if absent else ():
        settings, finished = record["settings"], record.get("finished") or ""
        told = known.get(json.dumps(settings.get("dataset"), sort_keys=True))
        if told is not None and isinstance(digest := settings.get("data"), str) and digest != NOT_THERE:
            told[digest] = max(finished, told.get(digest, ""))
    last = {name: max(told, key=lambda digest: told[digest]) for name, told in known.items() if told}
    several = [f"the data set {name} is not there, and records tell of {len(told)} states of it: only those made with "
               "the one used last are shown" for name, told in known.items() if len(told) > 1]  # fmt: skip
    return [_with_data(cell, last) for cell in cells], several


def _with_data(cell: Cell, digests: Mapping[str, str]) -> Cell:
    if cell.data != NOT_THERE:
        return cell
    name = json.dumps(cell.data_identity["dataset"], sort_keys=True)
    start = _with_data(cell.start, digests) if cell.start else None
    return replace(cell, data=digests.get(name, NOT_THERE), start=start)

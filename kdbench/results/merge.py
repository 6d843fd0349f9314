"""Records from elsewhere: other results folders, an MLflow server. Merged by key, so that no cell counts twice."""

import json
import math
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.layout import Layout
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
    """All records that are mirrored in a suite's experiment. Raises UserError when there is none."""
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(suite)
        runs: list[str] = []
        token: str | None = None
        while experiment is not None:
            page = client.search_runs([experiment.experiment_id], "tags.`kdbench.complete` = 'yes'", page_token=token)
            runs += [run.info.run_id for run in page]
            token = page.token
            if not token:
                break
        with tempfile.TemporaryDirectory() as folder:
            places = [Path(client.download_artifacts(run, "record.json", str(_made(folder, run)))) for run in runs]
            found = [json.loads(place.read_text()) for place in places]
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"--from-mlflow {uri}: {first}") from error
    if not found:
        raise UserError(f"--from-mlflow {uri}: no finished cell of suite {suite!r}")
    return [slim(record) for record in found]


def _made(folder: str, run: str) -> Path:
    place = Path(folder) / run
    place.mkdir()
    return place

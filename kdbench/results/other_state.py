"""Records of a suite that count no more, because what decides changed since: said, so that nobody wonders."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from kdbench.data import NOT_THERE
from kdbench.layout import Layout
from kdbench.plain import doing
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell

ENOUGH = 200  # records that are looked at
WORDS = {  # entry of a record's settings -> what it is
    "data": "the data",
    "data_code": "the code of the data set",
    "code": "the code of methods",
    "transform_code": "the code of transforms",
    "metric_code": "the code of the metric",
    "train": "how students are trained",
    "format": "kdbench's version",
}


def other_state(results: Path, suite: str, cells: Sequence[Cell]) -> str:
    """What lies in the suite's folder where nothing of it is of these cells; empty where there is nothing."""
    folder = Layout(results).suite(suite)
    if any(cell.data == NOT_THERE for cell in cells):
        return ""  # which state of the data is meant nobody knows
    there = sorted(path.stem for path in folder.records.glob("[!.]*.json"))
    if not there or not {cell.key for cell in cells}.isdisjoint(there):
        return ""
    by_title = {(cell.label, cell.seed, cell.student.short): cell for cell in cells}
    changed: dict[str, None] = {}
    for record in islice(Records(results, suite).iterate(there), ENOUGH):
        if cell := by_title.get((record["label"], record["seed"], record["student"])):
            changed |= dict.fromkeys(differing(record, cell))
    what = ", ".join(WORDS.get(name, name) for name in changed) or "the suite"
    return (
        f"{doing(len(there), 'record', 'lie')} in {folder.records}, and none of them counts: since they were made, "
        f"{what} changed"
    )


def differing(record: Record, cell: Cell) -> list[str]:
    """The entries of their settings that differ."""
    then, now = record["settings"], cell.identity
    return [name for name in {**then, **now} if then.get(name) != now.get(name)]

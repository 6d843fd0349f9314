"""Records -> a frame with one row per cell, and what can be read off it: what the cells rest on, and their curves."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.method.metric import Metric
from kdbench.results.records import Record
from kdbench.suite.cells import Cell, alone

GROUP = ["dataset", "teacher", "student"]  # what is compared with each other: one data set, one pair
MADE_BY = ("commit", "kdbench", "torch", "timm", "device", "kind", "threads", "onednn", "led_around")
# A warning is given where cells compared differ in these

Curves = dict[str, dict[str, list[float]]]  # pair's title -> row's label -> mean score after every epoch


def title(group: Iterable[Any]) -> str:
    dataset, teacher, student = group
    return f"{dataset}: {teacher} → {student}"


def frame_of(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record."""
    rows = []
    for record in records:
        profile = record.get("profile") or {}
        made = (record.get("versions") or {}) | ({"led_around": around} if (around := record.get("led_around")) else {})
        objective = record["settings"].get("objective")
        rows.append({
            **{name: record.get(name) for name in ("key", *GROUP, "label", "seed", "status", "reason")},
            "alone": objective == alone(),
            **{name: value for name, value in record["scores"].items() if not isinstance(value, list | dict)},
            **{f"student_{k}": v for k, v in (profile.get("student") or {}).items()},
            **{f"teacher_{k}": v for k, v in (profile.get("teacher") or {}).items()},
            **{f"cost_{k}": v for k, v in (record.get("cost") or {}).items()},
            **{name: made.get(name) for name in MADE_BY},
            "repeatable": record.get("repeatable") is not False,
            "objective": json.dumps(objective, sort_keys=True),
            "recipe": json.dumps(record["settings"], sort_keys=True),
            "finished": record.get("finished"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def with_missing(frame: pd.DataFrame, wanted: Iterable[Cell]) -> pd.DataFrame:
    """The frame in the order of the suite, with a row of status `missing` for every cell that has no record.

    Names and labels are the suite's present ones: a row may have been renamed since its record was written.
    """
    have = {row["key"]: row for row in frame.to_dict("records")} if len(frame) else {}
    names = Names()
    rows = []
    for cell in wanted:
        missing = {"status": "missing", "reason": "", "alone": cell.is_alone}
        row: dict[Any, Any] = have.get(cell.key) or missing
        here = dict(zip(GROUP, names(cell), strict=True))
        rows.append({**row, "key": cell.key, **here, "seed": cell.seed, "label": cell.label})
    return pd.DataFrame(rows)


class Names:
    """Names of data set, teacher and student that tell comparisons apart: a second one of that name becomes `x (2)`.

    Two folders of pictures are both called `folder`, two teachers may differ in their checkpoint alone, and one pair
    may stand in a suite twice with other rates.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        self._number: dict[tuple[str, str], int] = {}

    def __call__(self, cell: Cell) -> tuple[str, str, str]:
        dataset = self._unique("", cell.dataset.name, str(cell.dataset))
        file = cell.teacher.checkpoint
        teacher = cell.teacher.short + (f" [{Path(file).name}]" if file else "")
        teacher = self._unique(dataset, teacher, str(cell.teacher))
        pair = f"{cell.teacher} {cell.student} {cell.train}"
        return dataset, teacher, self._unique(f"{dataset} {teacher}", cell.student.short, pair)

    def _unique(self, where: str, name: str, what: str) -> str:
        """`name`, numbered if something else in the same place has it already."""
        if (where, name, what) not in self._names:
            number = self._number[where, name] = self._number.get((where, name), 0) + 1
            self._names[where, name, what] = name if number == 1 else f"{name} ({number})"
        return self._names[where, name, what]


@dataclass(frozen=True)
class Sources:
    """What the finished cells rest on, and a warning wherever a comparison mixes it."""

    num_done: int
    made_by: dict[str, list[str]]  # commit, torch, ... -> every value that occurs
    warnings: list[str]


def sources_of(frame: pd.DataFrame) -> Sources:
    done = frame[frame["status"] == "done"] if len(frame) else frame
    known = [name for name in MADE_BY if name in done]
    found = {name: sorted({str(v) for v in done[name].dropna()}) for name in known}
    warnings = []
    for group, part in done.groupby(GROUP, sort=False) if known else []:
        for name in known:
            values = sorted({str(value) for value in part[name].dropna()})
            if len(values) > 1:
                warnings.append(f"{title(group)}: cells are compared that differ in {name}: {', '.join(values)}")
    if dirty := [commit for commit in found.get("commit", []) if commit.endswith("-dirty")]:
        warnings.append(
            f"some cells were made with uncommitted changes ({', '.join(dirty)}): the commit does not say all"
        )
    if "repeatable" in done and (done["repeatable"] == False).any():  # noqa: E712  (missing cells have None)
        warnings.append("some cells were made on a machine that does not repeat itself: made again they would differ")
    return Sources(len(done), found, warnings)


def curves_of(frame: pd.DataFrame, records: Iterable[Record], metric: Metric) -> Curves:
    """Mean test score of the finished cells after every epoch."""
    by_key = {r["key"]: (r.get("curves") or {}).get(metric.test) for r in records if r["status"] == "done"}
    gathered: dict[str, dict[str, list[list[float]]]] = {}
    for key, label, *group in frame.reindex(columns=["key", "label", *GROUP]).itertuples(index=False):
        if curve := by_key.get(key):
            gathered.setdefault(title(group), {}).setdefault(str(label), []).append(curve)
    return {pair: {label: _mean(curves) for label, curves in rows.items()} for pair, rows in gathered.items()}


def _mean(curves: list[list[float]]) -> list[float]:
    """Epoch by epoch, over the seeds; as long as the shortest."""
    return [sum(values) / len(values) for values in zip(*curves, strict=False)]

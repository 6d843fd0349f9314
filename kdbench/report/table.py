"""Records -> pandas -> leaderboards. Every number on a leaderboard is computed from records here, and nowhere else."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.report import statistics
from kdbench.results.records import Record
from kdbench.suite.cells import Cell, alone

GROUP = ["dataset", "teacher", "student"]  # what is compared with each other: one data set, one pair
REFERENCE = "kd"  # the label of the row that gains are counted against, beside the student alone
NOT_DONE = ("diverged", "failed", "skipped", "missing")
MADE_BY = ("commit", "kdbench", "torch", "timm", "device")  # what may differ between records and should not
SCORES = ("test_", "validation_", "teacher_", "student_", "cost_")


def frame_of(records: Iterable[Record], labels: dict[str, str] | None = None) -> pd.DataFrame:
    """One row per cell. `labels`: key -> the row's present label (a row may have been renamed since)."""
    rows = []
    for record in records:
        profile = record.get("profile") or {}
        made = record.get("versions") or {}
        objective = record["settings"].get("objective")
        rows.append({
            **{name: record.get(name) for name in ("key", *GROUP, "label", "seed", "status", "reason")},
            "label": (labels or {}).get(record["key"], record["label"]),
            "alone": objective == alone(),
            **{name: value for name, value in record["scores"].items() if not isinstance(value, list | dict)},
            **{f"student_{k}": v for k, v in (profile.get("student") or {}).items()},
            **{f"teacher_{k}": v for k, v in (profile.get("teacher") or {}).items()},
            **{f"cost_{k}": v for k, v in (record.get("cost") or {}).items()},
            **{name: made.get(name) for name in MADE_BY},
            "objective": json.dumps(objective, sort_keys=True),
            "recipe": json.dumps(record["settings"], sort_keys=True),
            "finished": record.get("finished"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def with_missing(cells: pd.DataFrame, wanted: Iterable[Cell]) -> pd.DataFrame:
    """The frame in the order of the suite, with a row of status `missing` for every cell that has no record."""
    have = {row["key"]: row for row in cells.to_dict("records")} if len(cells) else {}
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


def table_of(cells: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Per data set and pair one row per objective, in order of appearance; only cells that are done count.

    `gain...`: against the student alone; `reference_gain...`: against the row labelled `reference`. Each with `_low`,
    `_high` (95% interval), `_n` (common seeds), `_p`, `_p_holm` (corrected over all tests of the pair), `_says`.
    """
    rows = []
    for group, part in cells.groupby(GROUP, sort=False) if len(cells) else []:
        found = list(_rows_of(dict(zip(GROUP, group, strict=True)), part, reference))
        _correct(found, reference)
        rows += found
    return pd.DataFrame([{k: v for k, v in row.items() if not k.endswith("_difference")} for row in rows])


def _rows_of(group: dict[str, Any], part: pd.DataFrame, reference: str) -> Iterator[dict[str, Any]]:
    done = part[part["status"] == "done"]
    others = {
        "gain": scores(done[done["alone"].astype(bool)]),
        "reference_gain": scores(done[done["label"] == reference]),
    }
    numbers = [name for name in done.columns if str(name).startswith(SCORES) and len(done)]
    means = done.groupby("label", sort=False)[numbers].mean(numeric_only=True)
    for label, row in part.groupby("label", sort=False):
        ours = scores(row[row["status"] == "done"])
        found = {**group, "objective": label, "n": len(ours), "cells": len(row), "alone": bool(row["alone"].any())}
        found |= {f"n_{status}": int((row["status"] == status).sum()) for status in NOT_DONE}
        found["reason"] = next((r for r in row["reason"] if isinstance(r, str) and r), "")
        if label in means.index:
            found |= {str(k): v for k, v in means.loc[label].items()}
            found["std"] = float(ours.std(ddof=1)) if len(ours) > 1 else math.nan
            for name, other in others.items():
                itself = found["alone"] if name == "gain" else label == reference
                twice = name == "reference_gain" and found["alone"]  # the same two rows the other way round
                if not itself and not twice:
                    found |= _gain(name, statistics.paired(ours, other))
        found["settings"] = next((text for text in row.get("objective", []) if isinstance(text, str)), "")
        found["recipe"] = next((text for text in row.get("recipe", []) if isinstance(text, str)), "")
        yield found


def scores(cells: pd.DataFrame) -> pd.Series:
    """Top-1 after the last epoch, by seed."""
    if "test_top1" not in cells or not len(cells):
        return pd.Series(dtype=float)
    return cells.drop_duplicates("seed").set_index("seed")["test_top1"].astype(float)


def _gain(name: str, found: statistics.Difference) -> dict[str, Any]:
    return {
        f"{name}": found.mean, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_ci": found.half,
        f"{name}_n": found.n, f"{name}_p": found.p, f"{name}_difference": found,
    }  # fmt: skip


def _correct(rows: list[dict[str, Any]], reference: str) -> None:
    """Holm over every test of one pair's table, against the student alone and against the reference together."""
    tests = [(row, name) for row in rows for name in ("gain", "reference_gain") if f"{name}_difference" in row]
    corrected = statistics.holm([row[f"{name}_p"] for row, name in tests])
    for (row, name), p in zip(tests, corrected, strict=True):
        found = row[f"{name}_difference"]
        row[f"{name}_p_holm"] = float(p)
        row[f"{name}_seeds_needed"] = statistics.seeds_needed(found.mean, found.std)
        other = "the student alone" if name == "gain" else reference
        row[f"{name}_says"] = statistics.verdict(found, float(p), other)


def claims(row: dict[str, Any], name: str = "gain") -> int:
    """1: better by the corrected test, -1: worse, 0: not distinguishable (or never tested)."""
    p = row.get(f"{name}_p_holm", math.nan)
    return int(math.copysign(1, row[name])) if p < statistics.ALPHA else 0


def ranking_of(table: pd.DataFrame) -> statistics.Ranking | None:
    """Objectives ranked over the pairs; None for one pair."""
    if "test_top1" not in table:
        return None
    wide = table.pivot_table(index=GROUP, columns="objective", values="test_top1", sort=False, observed=True)
    return statistics.ranking(wide)


def sources(cells: pd.DataFrame) -> tuple[dict[str, list[str]], list[str]]:
    """What the done cells rest on (commits, versions, devices), and a warning wherever a comparison mixes them."""
    done = cells[cells["status"] == "done"] if len(cells) else cells
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
    return found, warnings


def title(group: Iterable[Any]) -> str:
    dataset, teacher, student = group
    return f"{dataset}: {teacher} → {student}"


Row = dict[str, Any]
Groups = list[tuple[str, list[Row]]]  # (title, rows) of every comparison


def rows_of(table: pd.DataFrame) -> Groups:
    groups: Any = table.groupby(GROUP, sort=False) if len(table) else []
    return [(title(g), [{str(k): v for k, v in r.items()} for r in part.to_dict("records")]) for g, part in groups]


Curves = dict[str, dict[str, list[float]]]  # pair's title -> objective -> mean top-1 after every epoch


def curves_of(frame: pd.DataFrame, records: Iterable[Record]) -> Curves:
    """Mean test top-1 of the finished cells after every epoch, in percent."""
    by_key = {r["key"]: (r.get("curves") or {}).get("test_top1") for r in records if r["status"] == "done"}
    gathered: dict[str, dict[str, list[list[float]]]] = {}
    for key, label, *group in frame[["key", "label", *GROUP]].itertuples(index=False):
        if curve := by_key.get(key):
            gathered.setdefault(title(group), {}).setdefault(str(label), []).append(curve)
    return {pair: {label: _mean(curves) for label, curves in rows.items()} for pair, rows in gathered.items()}


def _mean(curves: list[list[float]]) -> list[float]:
    """Epoch by epoch, over the seeds; as long as the shortest."""
    return [sum(values) / len(values) for values in zip(*curves, strict=False)]

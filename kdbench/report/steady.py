"""Times of files, freed from the minute in which each was taken.

Two files that were timed in different minutes differ by what else the machine did: one and the same file was seen 35%
apart. What was taken interleaved is the ratio to the net before its transforms. So a time is that net's, the median
over all cells of its data set that timed it, times the median ratio of all cells whose files do the same work, the same
operators, parameters and multiply-adds: rows that differ in nothing but how they were trained share one time.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import replace
from statistics import mean, median
from typing import Any

import pandas as pd

from kdbench.report.frame import GROUP
from kdbench.report.rows import Pair, Row

TIMES = ("ort_ms_b1", "ort_ms_b64", "ort_ms_b1_all", "ort_ms_b64_all")


def steadied(frame: pd.DataFrame, pairs: list[Pair]) -> list[Pair]:
    """The pairs, with such times in the files of their rows."""
    if not {"file_bytes", "make"} <= set(frame.columns):
        return pairs
    found = Steady(frame[(frame["status"] == "done") & frame["file_bytes"].notna()])
    return [replace(pair, rows=[found.row(row) for row in pair.rows]) for pair in pairs]


class Steady:
    """`done`: the finished cells that were measured as files."""

    def __init__(self, done: pd.DataFrame) -> None:
        cells: list[dict[Any, Any]] = done.to_dict("records")
        self.cells: dict[tuple[str, ...], list[tuple[Hashable, Hashable]]] = {}  # of each row: make and work
        for cell in cells:
            self.cells.setdefault(row_of(cell), []).append((make_of(cell), work_of(cell)))
        self.timed = Counter(map(make_of, cells))
        self.bases = medians(((make_of(cell), name), base(cell, name)) for cell in cells for name in TIMES)
        ratios = medians(((make_of(c), work_of(c), name), ratio(c, name)) for c in cells for name in TIMES)
        plain = {(make_of(cell), work_of(cell)) for cell in cells if not is_changed(cell)}
        self.ratios = ratios | {(*place, name): 1.0 for place in plain for name in TIMES}

    def row(self, row: Row) -> Row:
        cells = self.cells.get((row.dataset, row.teacher, row.student, row.label), [])
        found: dict[str, float] = {}
        for name in TIMES:
            if cells and math.isfinite(value := mean(self.time(work, name) for _, work in cells)):
                times = mean(self.ratios[make, work, name] for make, work in cells)
                found |= {name: value, f"{name}_vs_first": times}
        return replace(row, file=replace(row.file, **{n: v for n, v in found.items() if hasattr(row.file, n)}))

    def time(self, work: Hashable, name: str) -> float:
        """By the net it was timed beside; of several the one with the most timings. NaN where none is known."""
        makes = [make for make, known, what in self.ratios if (known, what) == (work, name)]
        make = max(makes, key=lambda make: self.timed[make], default=None)
        return self.bases.get((make, name), math.nan) * self.ratios.get((make, work, name), math.nan)


def medians(values: Iterable[tuple[Hashable, float]]) -> dict[Any, float]:
    """Of each name's values that are known."""
    found: dict[Hashable, list[float]] = {}
    for name, value in values:
        if math.isfinite(value):
            found.setdefault(name, []).append(value)
    return {name: median(known) for name, known in found.items()}


def row_of(cell: dict[Any, Any]) -> tuple[str, ...]:
    return (*(str(cell[name]) for name in GROUP), str(cell["label"]))


def make_of(cell: dict[Any, Any]) -> tuple[Hashable, ...]:
    """The net before its transforms, on its data."""
    return cell["dataset"], cell["make"]


def work_of(cell: dict[Any, Any]) -> tuple[Hashable, ...]:
    """Equal for cells whose files do the same work."""
    ran = tuple(sorted((k, v) for k, v in cell.items() if str(k).startswith("ran_") and v == v))
    return cell["dataset"], cell.get("student_params"), cell.get("student_macs"), ran


def is_changed(cell: dict[Any, Any]) -> bool:
    """Was it timed beside the net before its transforms?"""
    return math.isfinite(known(cell, "uncompressed_bytes"))


def base(cell: dict[Any, Any], name: str) -> float:
    """The time of the net before its transforms."""
    return known(cell, f"{'uncompressed' if is_changed(cell) else 'file'}_{name}")


def ratio(cell: dict[Any, Any], name: str) -> float:
    return known(cell, f"file_{name}_vs_first") if is_changed(cell) else 1.0


def known(cell: dict[Any, Any], name: str) -> float:
    value = cell.get(name)
    return math.nan if value is None else float(value)

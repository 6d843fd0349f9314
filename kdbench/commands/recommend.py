"""After a run: which student to ship, trained how, and how surely that is better than plain training."""

import argparse
import math
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.api import Options
from kdbench.commands.given import options_of
from kdbench.errors import UserError
from kdbench.report.table import GROUP, Row, claims, frame_of, rows_of, table_of, title, with_missing
from kdbench.report.text import human, number
from kdbench.results.records import Records
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite


def run(given: argparse.Namespace) -> int:
    print(recommendation(given.suite, options_of(given), given.max_latency_ms, given.max_params))
    return 0


def recommendation(
    suite: Path, options: Options, max_latency_ms: float | None = None, max_params: float | None = None
) -> str:
    """A few lines per data set: which student and method to ship, how surely it is better, and what delivers it."""
    made = load_suite(suite, options.plugins, models=False)
    records = Records(options.results, made.name).read_many(c.key for c in cells_of(made))
    frame = with_missing(frame_of(records.values()), cells_of(made))
    table = table_of(frame)
    rows = [row for _, part in rows_of(table) for row in part if row["n"]]
    if not rows:
        raise UserError(f"{made.name}: no cell is done in {options.results}; first: kdbench run {suite}")
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset]
        good = [row for row in here if _allowed(row, max_latency_ms, max_params)]
        parts.append("\n".join(_advice(good, frame, options.results) if good else _none(dataset, here)))
    return "\n\n".join(parts)


def _allowed(row: Row, max_latency_ms: float | None, max_params: float | None) -> bool:
    limits = ((max_latency_ms, row.get("student_cpu_ms_b1")), (max_params, row.get("student_params")))
    return all(limit is None or (value is not None and value <= limit) for limit, value in limits)


def _none(dataset: Any, rows: list[Row]) -> list[str]:
    nearest = min(rows, key=lambda row: row.get("student_cpu_ms_b1", math.inf))
    what = f"{number(nearest.get('student_cpu_ms_b1'))} ms and {human(nearest.get('student_params'))} parameters"
    return [f"{dataset}: no student is within the limits; the fastest, {nearest['student']}, takes {what}."]


def _advice(rows: list[Row], frame: pd.DataFrame, results: Path) -> list[str]:
    held_out = all(math.isfinite(row.get("validation_top1", math.nan)) for row in rows)
    by = "validation_top1" if held_out else "test_top1"
    best = max(rows, key=lambda row: row[by])
    chosen = "held-out pictures" if held_out else "the test pictures, so its score is a little too good"
    cells = _cells(frame, best)
    spread = f" ± {best['std']:.2f}" if math.isfinite(best["std"]) else ""
    latency, params = number(best.get("student_cpu_ms_b1")), human(best.get("student_params"))
    size = f"{latency} ms a picture on one CPU thread, {params} parameters"
    lines = [
        f"{title(best[name] for name in GROUP)}",
        f"Ship {best['student']} trained with {best['objective']}: {best['test_top1']:.2f}%{spread} top-1 over "
        f"{best['n']} seed{'s' * (best['n'] > 1)}; {size}. Chosen on {chosen}.",
        *_how_sure(best, rows),
    ]
    ordered = cells.sort_values(by)
    key = ordered["key"].iloc[-1 if held_out else len(cells) // 2]
    which = "the seed best on held-out pictures" if held_out else "the seed in the middle"
    return [*lines, f"Deliver it ({which}): kdbench export {key} --format onnx --results {results}"]


def _cells(frame: pd.DataFrame, row: Row) -> pd.DataFrame:
    same = (frame["status"] == "done") & (frame["label"] == row["objective"])
    for name in GROUP:
        same &= frame[name] == row[name]
    return frame[same]


def _how_sure(best: Row, rows: list[Row]) -> list[str]:
    if best["alone"]:
        return ["No method did better than plain training: there is nothing to gain from a teacher here."]
    gain = best.get("gain", math.nan)
    if not math.isfinite(gain):
        return ["The student alone was not run on the same seeds, so its gain is not known."]
    span = (
        f" (95% interval {best['gain_low']:+.2f} to {best['gain_high']:+.2f})"
        if math.isfinite(best["gain_low"])
        else ""
    )
    lines = [f"Against the plain student: {gain:+.2f} points{span}: {best['gain_says']}."]
    if claims(best) != 1:
        lines.append(
            "As far as these runs can tell, plain training does as well and needs no teacher; more seeds would tell."
        )
    return lines

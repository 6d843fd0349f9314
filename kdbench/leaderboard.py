"""Records -> pandas -> tables. Every number on the leaderboard is computed here, from records, and nowhere else."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from kdbench.cells import Cell, alone
from kdbench.records import Record, write_atomic

GROUP = ["dataset", "teacher", "student"]


def frame_of(records: Iterable[Record], labels: dict[str, str] | None = None) -> pd.DataFrame:
    """One row per cell. `labels`: key -> the row's present label (a row may have been renamed since)."""
    rows = []
    for record in records:
        student = (record.get("profile") or {}).get("student") or {}
        teacher = (record.get("profile") or {}).get("teacher") or {}
        rows.append({
            **{name: record.get(name) for name in ("key", *GROUP, "label", "seed", "status", "reason")},
            "label": (labels or {}).get(record["key"], record["label"]),
            "alone": record["settings"].get("objective") == alone(),
            **record["scores"],
            **{f"student_{k}": v for k, v in student.items()},
            **{f"teacher_{k}": v for k, v in teacher.items()},
            **{f"cost_{k}": v for k, v in (record.get("cost") or {}).items()},
        })  # fmt: skip
    return pd.DataFrame(rows)


def paired_gain(ours: pd.Series, theirs: pd.Series) -> dict[str, float]:
    """Mean difference over the seeds that both have, with the half-width of its 95% t interval (NaN below 2 seeds)."""
    difference = (ours - theirs).dropna()
    n = len(difference)
    half = math.nan
    if n >= 2:
        half = float(stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / math.sqrt(n))
    return {"gain": float(difference.mean()) if n else math.nan, "gain_ci": half, "gain_n": n}


def table_of(cells: pd.DataFrame) -> pd.DataFrame:
    """Per data set and pair one row per objective, in order of appearance; only cells that are done count."""
    rows = []
    for group, part in cells.groupby(GROUP, sort=False):
        done = part[part["status"] == "done"]
        alone = done[done["alone"]].drop_duplicates("seed").set_index("seed").get("test_top1", pd.Series(dtype=float))
        for label, row in part.groupby("label", sort=False):
            good = row[row["status"] == "done"]
            seeds = good.drop_duplicates("seed").set_index("seed")
            summary: dict[str, Any] = dict(zip(GROUP, group, strict=True))
            summary |= {"objective": label, "n": len(seeds), "cells": len(row), "alone": bool(row["alone"].any())}
            for status in ("diverged", "failed", "skipped", "missing"):
                summary[f"n_{status}"] = int((row["status"] == status).sum())
            summary["reason"] = next((r for r in row["reason"] if isinstance(r, str) and r), "")
            for column in good.columns:
                if column.startswith(("test_", "teacher_", "student_", "cost_")) and len(good):
                    summary[column] = good[column].mean()
            if "test_top1" in good and len(good):
                summary["std"] = good["test_top1"].std(ddof=1) if len(good) > 1 else math.nan
                summary.update(paired_gain(seeds["test_top1"], alone))
            rows.append(summary)
    return pd.DataFrame(rows)


def with_missing(cells: pd.DataFrame, wanted: Iterable[Cell]) -> pd.DataFrame:
    """The frame in the order of the suite, with a row of status `missing` for every cell that has no record."""
    have = {row["key"]: row for row in cells.to_dict("records")} if len(cells) else {}
    rows = []
    for cell in wanted:
        missing = {
            "key": cell.key, "dataset": cell.dataset.name, "teacher": cell.teacher.short, "student": cell.student.short,
            "seed": cell.seed, "status": "missing", "reason": "", "alone": cell.is_alone,
        }  # fmt: skip
        row: dict[Any, Any] = have.get(cell.key) or missing
        rows.append({**row, "label": cell.label})
    return pd.DataFrame(rows)


# --- Markdown --------------------------------------------------------------------------------------------------------


def plus_minus(value: Any, spread: Any = math.nan, digits: int = 2, sign: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text if spread is None or not math.isfinite(spread) else f"{text} ± {spread:.{digits}f}"


def human(value: Any) -> str:
    """1234567 -> 1.23M"""
    if value is None or not math.isfinite(value):
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"


def row_of(row: dict[str, Any], base_step: float) -> dict[str, str]:
    """One leaderboard row as text."""
    get = row.get
    step = get("cost_step_ms", math.nan)
    return {
        "objective": f"{row['objective']}{' *(student alone)*' if row['alone'] else ''}",
        "n": str(row["n"]),
        "top-1 %": plus_minus(get("test_top1"), get("std")),
        "gain": "" if row["alone"] else plus_minus(get("gain"), get("gain_ci"), sign=True),
        "chosen": plus_minus(get("test_top1_chosen")),
        "best epoch": plus_minus(get("test_top1_best")),
        "NLL": plus_minus(get("test_nll"), digits=3),
        "ECE": plus_minus(get("test_ece"), digits=3),
        "agree %": plus_minus(get("teacher_agreement"), digits=1),
        "params": human(get("student_params")),
        "MACs": human(get("student_macs")),
        "CPU ms": plus_minus(get("student_cpu_ms_b1")),
        "step": plus_minus(step / base_step if base_step else math.nan, digits=2) + "x" if step == step else "–",
        "min/run": plus_minus(get("cost_alone_seconds", math.nan) / 60, digits=1),
    }


LEGEND = """\
**How to read it.** *top-1*: accuracy on the test set after the last epoch, mean ± standard deviation over `n` seeds. \
*gain*: mean difference to the student alone *on the same seeds*, ± half of its 95% interval (t distribution; none \
with one seed). An interval that holds 0 says: not distinguishable from the student alone at this n. *chosen*: test \
accuracy at the epoch chosen on held-out data. *best epoch*: the best test accuracy of any epoch, which is what much \
of the literature reports; it looks at the test set and decides nothing here. *NLL*, *ECE*: of the last epoch. \
*agree*: share of test pictures on which student and teacher give the same class. *params*, *MACs* (FLOPs = 2 x MACs), \
*CPU ms* (one picture, one thread): the student's at inference. *step*: one training step against the student \
alone's, without the teacher. *min/run*: minutes of training it would take alone, teacher's forward included."""


def markdown(table: pd.DataFrame, title: str) -> str:
    parts = [f"# {title}\n"]
    for group, part in table.groupby(GROUP, sort=False) if len(table) else []:
        dataset, teacher, student = group
        rows = [{str(k): v for k, v in row.items()} for row in part.to_dict("records")]
        base = next((r.get("cost_step_ms", math.nan) for r in rows if r["alone"]), math.nan)
        parts.append(f"## {dataset}: {teacher} → {student}\n")
        parts.append(teacher_line(rows) + "\n")
        done = [row_of(r, base) for r in rows if r["n"]]
        if done:
            shown = pd.DataFrame(done)
            if (shown["chosen"] == "–").all():
                shown = shown.drop(columns="chosen")
            align = ["left"] + ["right"] * (len(shown.columns) - 1)
            parts.append(shown.to_markdown(index=False, colalign=align, disable_numparse=True) + "\n")
        parts += [f"- {line}" for line in remarks(rows)]
        parts.append("")
    parts.append(LEGEND)
    return "\n".join(parts) + "\n"


def teacher_line(rows: list[dict[str, Any]]) -> str:
    facts = next((r for r in rows if r["n"]), {})
    if not facts:
        return "No cell is done yet."
    return (
        f"Teacher: {plus_minus(facts.get('teacher_top1'))}% top-1, {human(facts.get('teacher_params'))} parameters, "
        f"{human(facts.get('teacher_macs'))} MACs, {plus_minus(facts.get('teacher_cpu_ms_b1'))} ms on one CPU thread."
    )


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """What is not in the means: cells that are missing or did not end well."""
    lines = []
    for row in rows:
        for status in ("diverged", "failed", "skipped", "missing"):
            if row[f"n_{status}"]:
                reason = f": {row['reason']}" if row["reason"] and status != "missing" else ""
                lines.append(f"{row['objective']}: {row[f'n_{status}']} of {row['cells']} cells {status}{reason}")
    return lines


def write_leaderboard(
    cells: list[Cell], records: Iterable[Record], folder: Path, suite: str
) -> tuple[pd.DataFrame, str]:
    """Write `leaderboard.md` and `leaderboard.csv` (one row per objective) and `cells.csv`; returns table and text."""
    frame = with_missing(frame_of(records), cells)
    table = table_of(frame)
    text = markdown(table, f"Leaderboard: {suite}")
    write_atomic(folder / "leaderboard.md", text.encode())
    write_atomic(folder / "leaderboard.csv", table.to_csv(index=False).encode())
    write_atomic(folder / "cells.csv", frame.to_csv(index=False).encode())
    return table, text

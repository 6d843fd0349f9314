"""The leaderboard as one HTML page that works from a file, without a network: `page.html` with the data put in."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.files import finite
from kdbench.report.markdown import rests_on, teacher_line
from kdbench.report.per_class import ClassWords
from kdbench.report.summary import headline
from kdbench.report.table import GROUP, Curves, Groups, Row, claims, ranking_of, sources, title

MOST_POINTS = 120  # of a curve on the page
DIGITS = 6


def thinned(curve: list[float]) -> list[tuple[int, float]]:
    """(epoch, score) at up to 120 epochs, the last one always among them."""
    stride = max(1, math.ceil(len(curve) / MOST_POINTS))
    return [(n + 1, round(curve[n], 2)) for n in range(len(curve)) if (len(curve) - 1 - n) % stride == 0]


def html(
    table: pd.DataFrame,
    groups: Groups,
    frame: pd.DataFrame,
    curves: Curves,
    suite: str,
    reference: str,
    links: dict[str, str],
    classes: ClassWords,
) -> str:
    """The whole page. `links`: key -> address of the cell's MLflow run."""
    found, warnings = sources(frame)
    runs = _runs(frame, links)
    data = {
        "suite": suite,
        "reference": reference,
        "headline": headline(table, groups),
        "warnings": warnings,
        "rests_on": rests_on(found, frame).replace("**", ""),
        "pairs": [_pair(name, rows, curves.get(name, {}), runs, classes) for name, rows in groups],
        "ranking": _ranking(table),
    }
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Path(__file__).with_name("page.html").read_text().replace("/*DATA*/null", safe, 1)


def _pair(
    name: str,
    rows: list[Row],
    curves: dict[str, list[float]],
    runs: dict[tuple[str, str], list[Any]],
    classes: ClassWords,
) -> Row:
    base = next((r for r in rows if r["alone"] and r["n"]), {})
    facts = next((r for r in rows if r["n"]), {})
    return {
        "title": name,
        "dataset": rows[0]["dataset"],
        "teacher": rows[0]["teacher"],
        "student": rows[0]["student"],
        "about": teacher_line(rows),
        "teacher_top1": _round(facts.get("teacher_top1")),
        "teacher_ms": _round(facts.get("teacher_cpu_ms_b1")),
        "rows": [
            _row(row, base, runs.get((name, row["objective"]), [])) | {"classes": classes.get((name, row["objective"]))}
            for row in rows
        ],
        "curves": {label: thinned(curve) for label, curve in curves.items()},
    }


def _row(row: Row, base: Row, runs: list[Any]) -> Row:
    names = {
        "top1": "test_top1", "std": "std", "best": "test_top1_best", "chosen": "test_top1_chosen", "nll": "test_nll",
        "ece": "test_ece", "agree": "teacher_agreement", "memory": "cost_peak_memory_mb",
        "adapters": "cost_adapter_params", "params": "student_params", "macs": "student_macs",
        "ms": "student_cpu_ms_b1", "gpu_ms": "student_gpu_ms_b1",
    }  # fmt: skip
    shown: Row = {short: _round(row.get(name)) for short, name in names.items()}
    for cost in ("step_ms", "alone_seconds"):
        shown[cost] = _round(row.get(f"cost_{cost}", math.nan) / (base.get(f"cost_{cost}") or math.nan))
    for short, name in (("student", "gain"), ("reference", "reference_gain")):
        ends = ("", "_low", "_high", "_p_holm")
        numbers = dict(zip(("gain", "low", "high", "p"), (_round(row.get(name + end)) for end in ends), strict=True))
        says = row.get(f"{name}_says")
        shown[short] = {**numbers, "n": _round(row.get(f"{name}_n")), "claim": claims(row, name),
                        "says": says if isinstance(says, str) else ""}  # fmt: skip
    same = {name: row[name] for name in ("objective", "n", "cells", "alone", "settings", "reason")}
    hours = row.get("cost_alone_seconds", math.nan) / 3600
    return {**same, **shown, "hours": _round(hours), "runs": runs}


def _runs(frame: pd.DataFrame, links: dict[str, str]) -> dict[tuple[str, str], list[Any]]:
    """(pair's title, objective) -> its cells: seed, status, score, reason, key, address of the MLflow run."""
    found: dict[tuple[str, str], list[Any]] = {}
    columns = ["label", "seed", "status", "test_top1", "reason", "key", *GROUP]
    for label, seed, status, score, reason, key, *group in frame.reindex(columns=columns).itertuples(index=False):
        text = reason if isinstance(reason, str) else ""
        shown = [int(seed), status, _round(score), text, key, links.get(key, "")]
        found.setdefault((title(group), str(label)), []).append(shown)
    return found


def _ranking(table: pd.DataFrame) -> dict[str, Any] | None:
    ranking = ranking_of(table)
    if ranking is None:
        return None
    ranks = sorted((round(rank, 3), name) for name, (rank, _) in ranking.ranks.items())
    return {"ranks": ranks, "critical": ranking.critical, "pairs": ranking.pairs, "p": ranking.p}


def _round(value: Any) -> float | None:
    """Enough digits for a page; None for what is not a finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), DIGITS)

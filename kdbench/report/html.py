"""The leaderboard as one HTML page that works from a file, without a network: `page.html` with the data put in."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.files import finite
from kdbench.report.across import MeanGain
from kdbench.report.compression import AXES, cells_of_line
from kdbench.report.frame import GROUP, title
from kdbench.report.gains import Gain
from kdbench.report.markdown import not_believed, remarks, rests_on, teacher_line
from kdbench.report.meaning import notes_of
from kdbench.report.rows import Pair, Row
from kdbench.report.statistics import Ranking
from kdbench.report.summary import headline, ties_in_words
from kdbench.report.table import Board

MOST_POINTS = 120  # of a curve on the page
ALL_POINTS = 60_000  # of all its curves; where they are many, each has fewer
DIGITS = 6

Runs = dict[tuple[str, str], list[Any]]  # (pair's title, label) -> its cells


def html(board: Board, links: Mapping[str, str] | None = None) -> str:
    """The whole page. `links`: key -> address of the cell's MLflow run."""
    runs = _runs(board, links or {})
    data = {
        "suite": board.suite,
        "reference": board.reference,
        "metric": {"head": board.metric.head, "axis": board.metric.axis, "unit": board.metric.unit},
        "headline": headline(board),
        "warnings": [*board.sources.warnings, *not_believed(board)],
        "rests_on": rests_on(board).replace("**", ""),
        "pairs": [_pair_data(board, pair, runs) for pair in board.pairs],
        "mean_gains": [_mean_gain_data(label, gain, board) for label, gain in board.mean_gains.items()],
        **({"compression": _compression_data(board)} if board.compression else {}),
        "ranking": None if board.ranking is None else _ranking_data(board.ranking),
    }
    text = json.dumps(finite(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("/*DATA*/null", safe, 1)


def _pair_data(board: Board, pair: Pair, runs: Runs) -> dict[str, Any]:
    first = pair.rows[0]
    most = min(MOST_POINTS, max(2, ALL_POINTS // max(1, sum(map(len, board.curves.values())))))
    done = pair.taught
    return {
        "title": pair.title,
        "dataset": first.dataset,
        "teacher": first.teacher,
        "student": first.student,
        "about": teacher_line(pair),
        "told": [*remarks(pair.rows), *notes_of(pair)],
        "ties": ties_in_words(pair),
        "teacher_score": _round(done.teacher_score) if done else None,
        "teacher_ms": _round(done.teacher_size.cpu_ms_b1) if done else None,
        "rows": [
            _row_data(row, pair, runs.get((pair.title, row.label), []))
            | {"classes": board.class_words.get((pair.title, row.label))}
            | _then_data(board, row)
            for row in pair.rows
        ],
        "curves": {label: thinned(curve, most) for label, curve in board.curves.get(pair.title, {}).items()},
    }


def _compression_data(board: Board) -> dict[str, list[dict[str, Any]]]:
    """By data set: a point for each row, on three axes, and its line of the table as a text."""
    found: dict[str, list[dict[str, Any]]] = {}
    for dataset, lines in board.compression.items():
        found[dataset] = [
            {
                "student": line.row.student, "objective": line.row.label, "front": list(line.fronts),
                "score": _round(line.row.score), **{name: _round(x(line.row)) for name, (_, x) in AXES.items()},
                "text": "\n".join(f"{name}: {text}" for name, text in cells_of_line(line).items()),
            }
            for line in lines
        ]  # fmt: skip
    return found


def thinned(curve: list[float], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """(epoch, score) at up to `most` epochs, the last one always among them."""
    stride = max(1, math.ceil(len(curve) / most))
    return [(n + 1, round(curve[n], 2)) for n in range(len(curve)) if (len(curve) - 1 - n) % stride == 0]


def _row_data(row: Row, pair: Pair, runs: list[Any]) -> dict[str, Any]:
    numbers = {
        "score": row.score, "std": row.std, "best": row.best, "chosen": row.chosen, "nll": row.scores.test_nll,
        "group": None if row.tier is None else row.tier + 1, "lost": row.lost or None,
        "between_seeds": row.between_seeds, "copied": row.copied,
        "ece": row.scores.test_ece, "agree": row.scores.teacher_agreement, "memory": row.cost.peak_memory_mb,
        "adapters": row.cost.adapter_params, "params": row.size.params, "macs": row.size.macs,
        "ms": row.size.cpu_ms_b1, "gpu_ms": row.size.gpu_ms_b1, "step_ms": pair.cost_ratio(row, "step_ms"),
        "data_share": row.cost.data_share,
        "alone_seconds": pair.cost_ratio(row, "alone_seconds"),
    }  # fmt: skip
    return {
        "objective": row.label, "n": row.n, "cells": row.cells, "alone": row.alone, "settings": row.settings,
        "reason": row.reason, **{name: _round(value) for name, value in numbers.items()},
        "student": _gain_data(row.gain), "reference": _gain_data(row.reference_gain),
        "hours": _round(row.cost.alone_seconds / 3600), "runs": runs,
        **({"control": row.control} if row.control else {}),
    }  # fmt: skip


def _then_data(board: Board, row: Row) -> dict[str, Any]:
    """What its students learnt afterwards: the data set's name, the score there, the gain over the plain student's."""
    if (later := board.adapted.get((row.names, row.label))) is None:
        return {}
    name = later.dataset.removesuffix(f" after {row.dataset}")
    return {"then": {"name": name, "score": _round(later.score), "std": _round(later.std),
                     "student": _gain_data(later.gain)}}  # fmt: skip


def _gain_data(gain: Gain | None) -> dict[str, Any]:
    if gain is None:
        return {**dict.fromkeys(("gain", "low", "high", "new_low", "new_high", "p", "n")), "claim": 0, "says": ""}
    numbers = {"gain": gain.mean, "low": gain.low, "high": gain.high, "new_low": gain.new_low,
               "new_high": gain.new_high, "p": gain.p_corrected, "n": gain.n}  # fmt: skip
    return {**{name: _round(value) for name, value in numbers.items()}, "claim": gain.claim, "says": gain.says}


def _mean_gain_data(label: str, gain: MeanGain, board: Board) -> dict[str, Any]:
    """As a row's own, so that one drawing shows both."""
    numbers = {"gain": gain.mean, "low": gain.low, "high": gain.high, "p": gain.p, "n": gain.num}
    rank = board.ranking.ranks.get(label, (None, None))[0] if board.ranking else None
    shown = {name: _round(value) for name, value in numbers.items()}
    return {"objective": label, "rank": _round(rank), "student": {**shown, "claim": gain.claim}}


def _runs(board: Board, links: Mapping[str, str]) -> Runs:
    """Of each cell: seed, status, score, reason, key, address of the MLflow run."""
    found: Runs = {}
    columns = ["label", "seed", "status", "score", "reason", "key", *GROUP]
    for label, seed, status, score, reason, key, *group in board.frame.reindex(columns=columns).itertuples(index=False):
        text = reason if isinstance(reason, str) else ""
        shown = [int(seed), status, _round(score), text, key, links.get(key, "")]
        found.setdefault((title(group), str(label)), []).append(shown)
    return found


def _ranking_data(ranking: Ranking) -> dict[str, Any]:
    ranks = sorted((round(rank, 3), name) for name, (rank, _) in ranking.ranks.items())
    return {"ranks": ranks, "critical": ranking.critical, "pairs": ranking.pairs, "p": ranking.p}


def _round(value: Any) -> float | None:
    """Enough digits for a page; None for what is not a finite number."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return round(float(value), DIGITS)

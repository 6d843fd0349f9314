"""The board: everything a leaderboard says, computed once from records. Every rendering is a function of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdbench.method.metric import TOP1, Metric
from kdbench.report import statistics
from kdbench.report.frame import GROUP, Curves, Sources, curves_of, frame_of, sources_of, with_missing
from kdbench.report.gains import Gain
from kdbench.report.per_class import ClassWords, class_words, per_class
from kdbench.report.rows import Identities, Pair, Row, pairs_of
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell

REFERENCE = "kd"  # the label of the row that gains are counted against, beside the student alone


@dataclass(frozen=True)
class Board:
    """A leaderboard. `task`: what its scores are."""

    suite: str
    reference: str
    task: Metric
    frame: pd.DataFrame  # one row per cell
    pairs: list[Pair]
    table: pd.DataFrame  # one row per objective and pair: what `leaderboard.csv` holds
    ranking: statistics.Ranking | None  # None for one pair
    sources: Sources
    curves: Curves
    per_class: pd.DataFrame  # one row per objective, pair and class
    class_words: ClassWords

    @property
    def rows(self) -> list[Row]:
        return [row for pair in self.pairs for row in pair.rows]


def make_board(
    suite: str,
    cells: Iterable[Cell],
    records: Iterable[Record],
    *,
    reference: str = REFERENCE,
    published: bool = False,
    task: Metric = TOP1,
    notes: Iterable[str] = (),
    refused: Iterable[str] = (),
) -> Board:
    """`reference`: the row that gains are also counted against; `published`: the literature's numbers beside ours;
    `notes`: warnings; `refused`: what was wrong with records that are not among `records`.

    Raises UserError when published numbers are asked for and not installed.
    """
    cells, records = list(cells), list(records)
    frame = with_missing(frame_of(records), cells)
    pairs = pairs_of(frame, reference, task, _identities(frame, cells) if published else None)
    table = table_of(pairs)
    by_class = per_class(frame, records, task)
    return Board(
        suite=suite,
        reference=reference,
        task=task,
        frame=frame,
        pairs=pairs,
        table=table,
        ranking=ranking_of(table, task),
        sources=sources_of(frame, notes, refused),
        curves=curves_of(frame, records, task),
        per_class=by_class,
        class_words=class_words(by_class),
    )


def _identities(frame: pd.DataFrame, cells: list[Cell]) -> Identities:
    places = frame.reindex(columns=[*GROUP, "label"]).itertuples(index=False, name=None)
    return {place: cell.identity for place, cell in zip(places, cells, strict=True)}


def table_of(pairs: Iterable[Pair]) -> pd.DataFrame:
    """One row per pair and objective, as people's own scripts read it from `leaderboard.csv`.

    `gain...`: against the student alone; `reference_gain...`: against the reference. Each with `_low`, `_high` (95%
    interval), `_n` (common seeds), `_p`, `_p_holm` (corrected over all tests of the pair), `_says`.
    """
    rows = [row for pair in pairs for row in pair.rows]
    table = pd.DataFrame([_columns(row) for row in rows])
    beside = [row.published.columns for row in rows if row.published is not None]
    if not beside:
        return table
    return pd.concat([table.drop(columns="recipe"), pd.DataFrame(beside, index=table.index)], axis=1)


def _columns(row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {
        "dataset": row.dataset, "teacher": row.teacher, "student": row.student, "objective": row.label, "n": row.n,
        "cells": row.cells, "alone": row.alone, **{f"n_{status}": count for status, count in row.not_done.items()},
        "reason": row.reason, **row.means,
    }  # fmt: skip
    if row.n:
        found["std"] = row.std
    gains = {"gain": row.gain, "reference_gain": row.reference_gain}
    for name, gain in gains.items():
        found |= _numbers(name, gain) if gain else {}
    found |= {"settings": row.settings, "recipe": row.recipe}
    for name, gain in gains.items():
        found |= _words(name, gain) if gain else {}
    return found


def _numbers(name: str, gain: Gain) -> dict[str, Any]:
    difference = gain.difference
    return {
        name: gain.mean, f"{name}_low": gain.low, f"{name}_high": gain.high, f"{name}_ci": difference.half,
        f"{name}_n": gain.n, f"{name}_p": difference.p,
    }  # fmt: skip


def _words(name: str, gain: Gain) -> dict[str, Any]:
    return {f"{name}_p_holm": gain.p_holm, f"{name}_seeds_needed": gain.seeds_needed, f"{name}_says": gain.says}


def ranking_of(table: pd.DataFrame, metric: Metric) -> statistics.Ranking | None:
    """Objectives ranked over the pairs; None for one pair."""
    if metric.test not in table:
        return None
    wide = table.pivot_table(index=GROUP, columns="objective", values=metric.test, sort=False, observed=True)
    return statistics.ranking(wide)

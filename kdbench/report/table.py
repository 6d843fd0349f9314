"""The board: everything a leaderboard says, computed once from records. Every rendering is a function of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from kdbench.errors import UserError, unknown
from kdbench.method.metric import MIXED, TOP1, Metric
from kdbench.report import statistics
from kdbench.report.across import MeanGain, mean_gains
from kdbench.report.compression import Compressed, compressions_of
from kdbench.report.frame import GROUP, NOTHING, Beside, Curves, Sources, curves_of, sources_of, with_missing
from kdbench.report.gains import Gain
from kdbench.report.pairs import Identities, Sought, pairs_of
from kdbench.report.per_class import ClassWords, class_words, per_class
from kdbench.report.rows import Pair, Row
from kdbench.report.steady import steadied
from kdbench.results.looks_file import Declared
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.suite.objectives import REFERENCE


@dataclass(frozen=True)
class Board:
    """A leaderboard."""

    suite: str
    reference: str
    frame: pd.DataFrame  # one row per cell
    pairs: list[Pair]
    table: pd.DataFrame  # one row per objective and pair: what `leaderboard.csv` holds
    ranking: statistics.Ranking | None  # None for one pair
    mean_gains: dict[str, MeanGain]  # over the student alone, of the rows that are ranked on every pair
    sources: Sources
    curves: Curves
    per_class: pd.DataFrame  # one row per objective, pair and class
    class_words: ClassWords
    compression: dict[str, list[Compressed]]  # by data set: rows that were measured as files

    @property
    def metric(self) -> Metric:
        """What its scores are."""
        found = {pair.metric.name: pair.metric for pair in self.pairs} or {TOP1.name: TOP1}
        if len(found) > 1:
            return MIXED
        [metric] = found.values()
        words = dict.fromkeys(pair.metric.words for pair in self.pairs)
        return replace(metric, words=" or ".join(words)) if words else metric

    @cached_property
    def adapted(self) -> dict[tuple[str, str], Row]:
        """What students learnt afterwards: (names of the pair that they come from, row's label) -> the row of that."""
        return {(row.adapts, row.label): row for row in self.rows if row.adapts}

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
    beside: Beside = NOTHING,
    declared: Declared | None = None,
) -> Board:
    """`reference`: the row that gains are also counted against; `published`: the literature's numbers beside ours;
    `beside`: warnings, and what was wrong with other records. `declared`: the looks by which verdicts are to be read,
    where seeds are added until decided.

    Raises UserError when published numbers are asked for and not installed, looks were declared with another
    reference, or there is no such row (only `kd` may be missing).
    """
    if declared is not None and reference != declared.reference:
        raise UserError(
            f"--reference {reference}: the looks at this table were declared with {declared.reference!r}, and what is "
            "compared must not be chosen after them"
        )
    cells, records = list(cells), list(records)
    if reference != REFERENCE and reference not in (rows := {cell.label for cell in cells}):
        raise UserError(f"--reference: {unknown('row', reference, rows)}")
    frame = with_missing(records, cells)
    if beside.checked:
        frame["checked"] = [beside.checked.get(str(key), "") for key in frame["key"]]
    sought = Sought(reference, _identities(frame, cells) if published else None, declared)
    pairs = steadied(frame, pairs_of(frame, sought, records))
    distilled = [pair for pair in pairs if not any(row.adapts for row in pair.rows)]
    table = table_of(pairs)
    by_class = per_class(frame, records)
    return Board(
        suite=suite,
        reference=reference,
        frame=frame,
        pairs=pairs,
        table=table,
        ranking=ranking_of(distilled),
        mean_gains=mean_gains(distilled),
        sources=sources_of(frame, beside),
        curves=curves_of(frame, records),
        per_class=by_class,
        class_words=class_words(by_class),
        compression=compressions_of(frame, pairs),
    )


def _identities(frame: pd.DataFrame, cells: list[Cell]) -> Identities:
    places = frame.reindex(columns=[*GROUP, "label"]).itertuples(index=False, name=None)
    return {place: cell.identity for place, cell in zip(places, cells, strict=True)}


def table_of(pairs: Iterable[Pair]) -> pd.DataFrame:
    """One row per pair and objective, as people's own scripts read it from `leaderboard.csv`.

    `gain...`: against the student alone; `reference_gain...`: against the reference. Each with `_low`, `_high` (95%
    interval of this comparison alone), `_joint_low`, `_joint_high` (those of the pair hold all at once), `_new_low`,
    `_new_high` (for new test examples too), `_n` (common
    seeds), `_p`, `_p_corrected` (over all tests of the pair), `_seeds_needed`, `_says`: from the model of the pair.
    `own_t_...`: the same mean and interval by the paired t test of the two rows by themselves. `group`: 1 for the rows
    that are tied for the top. `control`: where some row has one, what stands in its teacher's place.
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
    found |= {"control": row.control} if row.control else {}
    found |= {"checked": row.checked} if row.checked else {}
    if row.n:
        found |= {"between_seeds": row.between_seeds, "copied_errors": row.copied}
        found |= {"std": row.std, "group": None if row.tier is None else row.tier + 1}
    gains = {"gain": row.gain, "reference_gain": row.reference_gain}
    for name, gain in gains.items():
        found |= _numbers(name, gain) if gain else {}
    found |= {"settings": row.settings, "recipe": row.recipe}
    for name, gain in gains.items():
        found |= _words(name, gain) if gain else {}
    return found


def _numbers(name: str, gain: Gain) -> dict[str, Any]:
    return {
        name: gain.mean, f"{name}_low": gain.low, f"{name}_high": gain.high, f"{name}_ci": gain.half,
        f"{name}_joint_low": gain.joint_low, f"{name}_joint_high": gain.joint_high,
        f"{name}_new_low": gain.new_low, f"{name}_new_high": gain.new_high,
        f"{name}_n": gain.n, f"{name}_p": gain.p,
    }  # fmt: skip


def _words(name: str, gain: Gain) -> dict[str, Any]:
    own = {"": gain.own.mean, "_low": gain.own.low, "_high": gain.own.high, "_p": gain.own.p}
    return {
        f"{name}_p_corrected": gain.p_corrected, f"{name}_seeds_needed": gain.seeds_needed, f"{name}_says": gain.says,
        **{f"own_t_{name}{end}": value for end, value in own.items()},
    }  # fmt: skip


def ranking_of(pairs: Iterable[Pair]) -> statistics.Ranking | None:
    """Objectives ranked over the pairs, by the rows that are ranked there; None for one pair."""
    return statistics.ranking(pd.DataFrame([{row.label: row.ranked for row in pair.rows} for pair in pairs]))

"""Who can't be told apart from the best row, and how much better than it is a winner looks by chance."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, groupby
from typing import Any

import numpy as np

from kdbench.report.chance import Chance, Scores, Table, chance_of, table_of, weighed
from kdbench.report.statistics import LEVEL, MANY_ROWS, fewer
from kdbench.report.variances import Floats, residuals

DRAWS = 4000


def tied_for_top(scores: Scores, draws: int = DRAWS) -> tuple[str, ...]:
    """Rows that may be the best one, best first: the truly best is among them in 95% of tables.

    A row is left out if another is surely above it: above by more than 95% of what chance makes the largest difference
    of all others to this row (multiple comparisons with the best: Hsu 1981, Annals of Statistics 9, 1026; Hsu 1996).
    Rows with fewer than two runs can't be judged and are not in it. `scores`: {label: {seed: score}}.
    """
    table = table_of({label: row for label, row in scores.items() if _runs(row) > 1})
    order = _by_mean(table)
    found = residuals(table.scores)
    if len(order) < 2:
        return order
    if found.pooled <= 0:
        best = np.nanmax(np.nanmean(table.scores, axis=1))
        return tuple(x for x in order if np.nanmean(table.scores[table.labels.index(x)]) > best - 1e-9)
    chance = chance_of(found, len(table.seeds), draws, np.random.default_rng(0))
    left = _may_be_best(table, chance)
    return tuple(label for label in order if left[table.labels.index(label)])


def tiers(scores: Scores, draws: int = DRAWS) -> list[tuple[str, ...]]:
    """Rows in groups: those tied for the top, then those tied for the top of what is left, and so on.

    The 95% hold for the first group; the later ones are a reading aid.
    """
    rest = {label: row for label, row in scores.items() if _runs(row) > 1}
    groups = []
    while rest:
        groups.append(tied_for_top(rest, draws))
        rest = {label: row for label, row in rest.items() if label not in groups[-1]}
    return groups


def _runs(row: Mapping[Hashable, float]) -> int:
    return sum(not math.isnan(score) for score in row.values())


def _by_mean(table: Table) -> tuple[str, ...]:
    if not table.labels:
        return ()
    return tuple(table.labels[i] for i in np.argsort(-np.nanmean(table.scores, axis=1), kind="stable"))


def _may_be_best(table: Table, chance: Chance) -> list[bool]:
    """[rows]; two rows without two common seeds can't rule each other out."""
    there = ~np.isnan(table.scores)
    none = np.zeros(len(table.seeds), dtype=bool)
    common = there.astype(np.int64) @ there.T
    pairs = [weighed(there, *both, none, 1.0) for both in combinations(range(len(there)), 2) if common[both] > 1]
    if not pairs:
        return [True] * len(table.labels)
    error, _ = chance.scale(pairs)
    # Of all others above a row, the largest t there is, and the largest that chance makes in each draw.
    found = np.full(len(table.labels), -np.inf)
    largest = np.full((len(table.labels), len(chance.seeds)), -np.inf)
    for a, group in groupby(zip(pairs, error.tolist(), strict=True), key=lambda both: both[0].a):
        held, scales = zip(*group, strict=True)
        t = np.array([pair(table.scores) for pair in held]) / scales  # a above each of the others
        drawn = np.stack([chance.error(pair) for pair in held]) / np.array(scales)[:, None]
        others = [pair.b for pair in held]
        found[others], largest[others] = np.maximum(found[others], t), np.maximum(largest[others], drawn)
        found[a], largest[a] = max(found[a], -t.min()), np.maximum(largest[a], -drawn.min(axis=0))
    alone = np.isinf(found)  # rows that are in no pair
    return [bool(alone[row] or found[row] <= np.quantile(largest[row], LEVEL)) for row in range(len(found))]


def winners_advantage(tables: Sequence[Scores], reference: str, draws: int = DRAWS) -> float:
    """Points by which the best row would lie above `reference` on average if no row differed from another.

    Over several tables (pairs of nets) the winner is the row with the best mean gain over all of them. Counted are the
    rows that all tables have with two runs or more. 0 without such rows.
    """
    frozen = tuple(tuple((label, tuple(row.items())) for label, row in scores.items()) for scores in tables)
    return _advantage(frozen, reference, draws)


@lru_cache(maxsize=4)  # every form of a leaderboard tells it
def _advantage(frozen: tuple[Any, ...], reference: str, draws: int) -> float:
    tables: list[Scores] = [{label: dict(row) for label, row in scores} for scores in frozen]
    usable = [{label for label, row in scores.items() if _runs(row) > 1} for scores in tables]
    rows = sorted(set.intersection(*usable) - {reference}) if usable else []
    if not rows:
        return 0.0
    rng, draws = np.random.default_rng(0), fewer(draws, len(rows), MANY_ROWS)
    total = np.zeros((len(rows), draws))
    for scores in tables:  # one after another: each is [rows, draws]
        total += _null_gains(table_of(scores), rows, reference, draws, rng)
    return float((total / len(tables)).max(axis=0).mean())


def _null_gains(table: Table, rows: list[str], reference: str, draws: int, rng: np.random.Generator) -> Floats:
    """Gains over `reference` by chance alone: [rows, draws]. Zero where the reference has no run."""
    found = residuals(table.scores)
    if found.pooled <= 0 or reference not in table.labels:
        return np.zeros((len(rows), draws))
    chance = chance_of(found, len(table.seeds), draws, rng)
    usual = np.exp(np.log(chance.variances).mean(axis=0, keepdims=True))  # what is not known of them would add to it
    chance = replace(chance, variances=usual)
    there = ~np.isnan(table.scores)
    other = table.labels.index(reference)
    none = np.zeros(len(table.seeds), dtype=bool)
    pairs = [weighed(there, table.labels.index(row), other, none, 1.0) for row in rows]
    return np.stack([chance.error(pair) for pair in pairs])

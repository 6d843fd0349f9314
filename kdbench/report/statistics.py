"""Tests that look at two rows by themselves, and at ranks across pairs of nets. All are scipy's.

A row's own paired t test stands in leaderboard.csv beside what the model of the pair says (`model.py`), which learns
from all rows. Differences are taken seed by seed. Student's t gives the interval; from 50 seeds on a bootstrap (BCa)
does, which supposes no normal distribution. With fewer it is too narrow: it covers the truth in about 93% of cases at
20 seeds and 94% at 50, where t covers 95%.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

LEVEL = 0.95
ALPHA = 1 - LEVEL
BOOTSTRAP_FROM = 50  # seeds
EQUAL = 0.2  # points of top-1: a smaller difference is a tie in practice
POWER = 0.8  # chance to find a difference of the observed size with as many seeds as `seeds_needed` says
MOST_SEEDS = 1000
LEAST_DRAWS = 1000
MANY_ROWS = 250  # of a pair: with more, fewer draws for ties, spreads and what the best leads by

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A paired difference over `n` common seeds. `low`, `high`: its 95% interval; `p`: two-sided, uncorrected.

    What the data can't give is NaN: all of it without common seeds, interval and p with one seed, or when the seeds
    differ by exactly the same amount (no spread to judge by; all zeros are a tie, p = 1).
    """

    n: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    std: float = math.nan

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def paired(ours: pd.Series, theirs: pd.Series) -> Difference:
    """`ours - theirs` over the seeds (the index) that both have; NaN scores count as not there."""
    return of_differences((ours - theirs).dropna().to_numpy(dtype=np.float64))


def of_differences(values: Floats) -> Difference:
    """As `paired`, of the differences."""
    n = len(values)
    if n == 0:
        return Difference()
    mean = float(values.mean())
    if n == 1:
        return Difference(1, mean)
    if np.ptp(values) < 1e-9:
        tie = abs(mean) < 1e-9
        return Difference(n, mean, p=1.0 if tie else math.nan, std=0.0)
    std = float(values.std(ddof=1))
    error = std / math.sqrt(n)
    p = 2 * float(scipy.special.stdtr(n - 1, -abs(mean) / error))  # scipy's ttest_1samp, without its half a millisecond
    if n >= BOOTSTRAP_FROM:
        low, high = map(float, interval(values))
        return Difference(n, mean, low, high, p, std)
    half = float(scipy.special.stdtrit(n - 1, 1 - ALPHA / 2)) * error
    return Difference(n, mean, mean - half, mean + half, p, std)


def interval(values: Floats, resamples: int = 9999) -> tuple[Floats, Floats]:
    """95% interval of the mean along the last axis, [..., n] -> [...]: t, or BCa bootstrap for many values."""
    if values.shape[-1] < BOOTSTRAP_FROM:
        found = scipy.stats.ttest_1samp(values, 0.0, axis=-1).confidence_interval(LEVEL)
        return found.low, found.high
    made = scipy.stats.bootstrap(
        (values,), np.mean, axis=-1, n_resamples=resamples, batch=100, rng=np.random.default_rng(0)
    )
    return made.confidence_interval.low, made.confidence_interval.high


def fewer(draws: int, size: int, large: int) -> int:
    """Draws of chance for a table: beyond `large` fewer, a quarter for twice the size, but `LEAST_DRAWS` of them."""
    return min(draws, max(LEAST_DRAWS, int(draws * (large / max(size, 1)) ** 2)))


def holm(p_values: Sequence[float]) -> Floats:
    """Holm's step-down correction: the chance of one false claim or more among all of them stays below alpha.

    NaN (no test was possible) stays NaN and does not count. Holm 1979, https://www.jstor.org/stable/4615733
    """
    given = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(given), np.nan)
    tested = np.flatnonzero(~np.isnan(given))
    order = tested[np.argsort(given[tested])]
    scaled = given[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def beyond(t: float, df: float, shift: float) -> float:
    """Chance that Student's t with its mean shifted lies above `t`: scipy's nct, without its half a millisecond."""
    below = float(scipy.special.nctdtr(df, shift, t))
    return float(scipy.stats.nct.sf(t, df, shift)) if math.isnan(below) else 1 - below


# --- across pairs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """Objectives ranked over the pairs (data set, teacher, student) on which all of them have a score.

    `ranks`: objective -> (average rank, half of its 95% t interval over the pairs). `p`: Friedman's test that all are
    alike. Two average ranks that differ by less than `critical` (Nemenyi, 5%) can't be told apart.
    """

    ranks: dict[str, tuple[float, float]]
    pairs: int
    p: float
    critical: float
    left_out: tuple[str, ...] = ()


def ranking(scores: pd.DataFrame) -> Ranking | None:
    """`scores`: one row per pair, one column per objective, higher is better, NaN where there is no score.

    Objectives without a score on every pair are left out (and named). None below 2 pairs or 2 objectives.
    """
    scores = scores.dropna(axis=0, how="all")
    complete = scores.dropna(axis=1)
    pairs, count = complete.shape
    if pairs < 2 or count < 2:
        return None
    ranks = scipy.stats.rankdata(-complete.to_numpy(dtype=np.float64).round(9), axis=1)
    half = scipy.stats.t.ppf(1 - ALPHA / 2, pairs - 1) * ranks.std(axis=0, ddof=1) / math.sqrt(pairs)
    p = math.nan
    if count >= 3 and np.ptp(ranks, axis=1).any():
        p = float(scipy.stats.friedmanchisquare(*ranks.T).pvalue)
    averages = zip(ranks.mean(axis=0).tolist(), half.tolist(), strict=True)
    named = dict(zip(map(str, complete.columns), averages, strict=True))
    left_out = tuple(str(name) for name in scores.columns if name not in complete.columns)
    return Ranking(named, pairs, p, nemenyi(count, pairs), left_out)


def nemenyi(count: int, pairs: int) -> float:
    """Critical difference of average ranks at 5%: q / sqrt(2) * sqrt(k (k + 1) / (6 N)).

    Demsar 2006, https://jmlr.org/papers/v7/demsar06a.html
    """
    return _studentized(count) / math.sqrt(2) * math.sqrt(count * (count + 1) / (6 * pairs))


@lru_cache
def _studentized(count: int) -> float:
    return float(scipy.stats.studentized_range.ppf(LEVEL, count, np.inf))


def wins_ties_losses(gains: Mapping[str, float]) -> tuple[int, int, int]:
    """On how many pairs a mean gain is above 0.2 points, within them, below; NaN counts nowhere."""
    values = [gain for gain in gains.values() if math.isfinite(gain)]
    wins, losses = sum(g > EQUAL for g in values), sum(g < -EQUAL for g in values)
    return wins, len(values) - wins - losses, losses

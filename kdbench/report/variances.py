"""How much each row of a pair varies from run to run, learnt from all rows together.

Three seeds say next to nothing about one row's variance; forty rows say a lot about what is usual. So the rows'
standard deviations are taken as draws from one lognormal distribution whose centre and width are learnt from the table:
rows that look alike share their evidence, rows that differ keep their own. Smyth 2004 (10.2202/1544-6115.1027) does
this with an inverse chi-square distribution and one plug-in estimate; a lognormal has no heavy tail (the simulation in
docs/statistics.md finds more true effects with it), and averaging over centre and width keeps their uncertainty.

Arrays are [rows, seeds], in points of the score, NaN where there is no run.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdbench.report.statistics import MANY_ROWS, fewer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SHARED_BY = 4  # rows: with fewer on a seed, its own effect can't be told from the rows' noise
SPREADS = np.arange(0.05, 1.0, 0.1)  # sd of the logarithm of the rows' standard deviations: the widths considered
USUAL_SPREAD = 0.5  # half-normal prior on that width
LOCATIONS = 41
STEP = 0.08  # grid of log standard deviations
TINY = 1e-12


@dataclass(frozen=True)
class Residuals:
    """What is left of the scores without row and seed effects: sums of squares and degrees of freedom, both [rows].

    `seed_variance`: of the effect that a seed has on all rows alike; 0 where seeds don't pair.
    """

    squares: Floats
    df: Floats
    seed_variance: float

    @property
    def pooled(self) -> float:
        """One variance for all rows; 0 without a degree of freedom."""
        total = self.df.sum()
        return float(self.squares.sum() / total) if total > TINY else 0.0

    @property
    def seed_correlation(self) -> float:
        """Share of the variance that two rows on the same seed have in common."""
        both = self.seed_variance + self.pooled
        return self.seed_variance / both if both > 0 else 0.0


def residuals(scores: Floats) -> Residuals:
    """Two-way residuals (row + seed) of [rows, seeds] where enough rows share a seed, else the row's deviations.

    The latter hold the seed's effect too and overstate a row's variance, so they weigh the less the more seeds pair:
    (1 - correlation)^2.
    """
    there = ~np.isnan(scores)
    shared = there.sum(axis=0) >= (SHARED_BY if len(scores) >= SHARED_BY else 2)
    squares, df = _two_way(scores, there & shared)
    pooled = squares.sum() / df.sum() if df.sum() > TINY else 0.0
    found = Residuals(squares, df, _seed_variance(scores[:, shared], pooled))
    if len(scores) < SHARED_BY:
        return found
    more_squares, more_df = _one_way(scores, there & ~shared)
    weight = (1 - found.seed_correlation) ** 2
    return replace(found, squares=squares + weight * more_squares, df=df + weight * more_df)


def _two_way(scores: Floats, used: Bools) -> tuple[Floats, Floats]:
    """Least squares of row + seed on the runs `used`; a row's degrees of freedom are what its leverages leave."""
    row, seed = np.nonzero(used)
    if not len(row):
        return np.zeros(len(scores)), np.zeros(len(scores))
    counts = used.sum(axis=1)
    seeds = np.eye(scores.shape[1])[seed] - (used / counts.clip(1)[:, None])[row]  # orthogonal to the rows
    centre = np.where(used, scores, 0.0).sum(axis=1) / counts.clip(1)
    values = scores[row, seed] - centre[row]
    projected = seeds @ np.linalg.pinv(seeds.T @ seeds, rcond=1e-10, hermitian=True)
    left = values - projected @ (seeds.T @ values)
    left[np.abs(left) < 1e-9 * max(1.0, float(np.abs(values).max()))] = 0.0
    freedom = 1 - 1 / counts[row] - (projected * seeds).sum(axis=1)
    squares, df = (np.bincount(row, of, len(scores)) for of in (left**2, freedom))
    return np.asarray(squares, dtype=np.float64), np.asarray(df.clip(0), dtype=np.float64)


def _one_way(scores: Floats, used: Bools) -> tuple[Floats, Floats]:
    counts = used.sum(axis=1)
    values = np.where(used, scores, 0.0)
    centre = values.sum(axis=1) / counts.clip(1)
    squares = (np.where(used, values - centre[:, None], 0.0) ** 2).sum(axis=1)
    return squares, (counts - 1.0).clip(0)


def correlation_of_seeds(scores: Floats) -> float:
    """How far rows on the same seed go together, 0..1; NaN with too few rows or seeds to say."""
    complete = scores[~np.isnan(scores).any(axis=1)]
    known = len(complete) >= SHARED_BY and complete.shape[1] >= 2
    return residuals(scores).seed_correlation if known else float("nan")


def _seed_variance(scores: Floats, pooled: float) -> float:
    """Analysis of variance: (mean square of the seeds - mean square of the residuals) / rows, on complete rows."""
    complete = scores[~np.isnan(scores).any(axis=1)]
    if min(complete.shape) < 2 or len(complete) < SHARED_BY:
        return 0.0
    return max(0.0, float(complete.mean(axis=0).var(ddof=1)) - pooled / len(complete))


@lru_cache(maxsize=8)
def _grid(highest: float) -> tuple[Floats, Floats, Floats]:
    """Grid of log sd around the pooled one [G]; for each centre and width [H]: weights on it [H, G], log prior [H]."""
    points = np.arange(-3.6, highest + 2.6, STEP)
    centre, width = (a.ravel() for a in np.meshgrid(np.linspace(-1.2, highest, LOCATIONS), SPREADS, indexing="ij"))
    weights = np.exp(-0.5 * ((points - centre[:, None]) / width[:, None]) ** 2)
    return points, weights / weights.sum(axis=1, keepdims=True), -0.5 * (width / USUAL_SPREAD) ** 2


def draw_variances(found: Residuals, num: int, rng: np.random.Generator) -> Floats:
    """`num` draws of all rows' variances, given the residuals: [num, rows]. All zero if the pooled variance is.

    Two rows can't say which of them varies more: they share one variance, and a test becomes the paired t test.
    """
    pooled, rows = found.pooled, len(found.df)
    if pooled <= TINY:
        return np.zeros((num, rows))
    if (found.df > TINY).sum() < 3:
        df = found.df.sum()
        return np.repeat(pooled * df / rng.chisquare(df, (num, 1)), rows, axis=1)
    highest = round(max(0.6, 6 / np.sqrt(2 * found.df.sum())), 1)
    points, weights, prior = _grid(highest)
    likelihood = _likelihood(found, points)
    chance = np.log((weights @ likelihood.T).clip(1e-300)).sum(axis=1) + prior
    chance = np.exp(chance - chance.max())
    chance[chance < 1e-3] = 0.0
    drawn = _draw_points(weights, likelihood, chance / chance.sum(), num, rng)
    return (pooled * np.exp(2 * points))[drawn.T].T  # a row's draws are one piece of memory


def _likelihood(found: Residuals, points: Floats) -> Floats:
    """Of each row's residuals at each point of the grid, up to a factor: [rows, G]; chi-square with the row's df."""
    inverse = np.exp(-2 * points) / found.pooled
    log = -found.df[:, None] * points - 0.5 * found.squares[:, None] * inverse
    return np.asarray(np.exp(log - log.max(axis=1, keepdims=True)))


def _draw_points(weights: Floats, likelihood: Floats, chance: Floats, num: int, rng: np.random.Generator) -> NDArray:
    """For each draw a centre and width, then for each row a point of the grid: indices [num, rows]."""
    rows, size = likelihood.shape
    chosen, hyper = np.unique(rng.choice(len(chance), num, p=chance), return_inverse=True)
    sought = rng.random((num, rows))
    order, ends = np.argsort(hyper, kind="stable"), np.cumsum(np.bincount(hyper))
    row = np.arange(rows)
    found = np.empty((num, rows), dtype=np.intp)
    for which, draws in zip(chosen, np.split(order, ends[:-1]), strict=True):
        heaped = (weights[which] * likelihood).cumsum(
            axis=1
        )  # [rows, G]: one centre and width at a time stays in cache
        line = (heaped / heaped[:, -1:] + row[:, None]).ravel()  # one row's distribution after another's
        found[draws] = np.searchsorted(line, sought[draws] + row, side="right") - row * size
    return found.clip(0, size - 1)


def spreads_differ(scores: Floats, draws: int = 4000) -> float:
    """p-value that all rows of [rows, seeds] vary alike: Bartlett's statistic against draws of it under that.

    Below 0.05 a table should say that its rows' spreads differ. NaN with fewer than three rows or no spread.
    Bartlett 1937, doi 10.1098/rspa.1937.0109
    """
    found = residuals(scores)
    used = found.df > TINY
    if used.sum() < 3 or found.pooled <= TINY:
        return float("nan")
    df = found.df[used]
    drawn = np.random.default_rng(0).chisquare(df, (fewer(draws, len(df), MANY_ROWS), len(df)))
    ours = _bartlett(found.squares[used][None], df)[0]
    return float((1 + (_bartlett(drawn, df) >= ours).sum()) / (draws + 1))


def _bartlett(squares: Floats, df: Floats) -> Floats:
    pooled = squares.sum(axis=1) / df.sum()
    own = np.log((squares / df).clip(TINY * pooled[:, None]))
    return np.asarray(df.sum() * np.log(pooled) - (df * own).sum(axis=1))

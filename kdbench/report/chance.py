"""What chance alone does to differences of rows: drawn from the model of the runs, for tests of many at once."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy

from kdbench.report.statistics import ALPHA
from kdbench.report.variances import Bools, Floats, Residuals, draw_variances

AT_ONCE = 32  # differences: with more, what is drawn of them leaves the processor's cache
Scores = Mapping[str, Mapping[Hashable, float]]  # label -> seed -> score


@dataclass(frozen=True)
class Table:
    """Scores as an array [rows, seeds], NaN where there is no run."""

    labels: tuple[str, ...]
    seeds: tuple[Hashable, ...]
    scores: Floats


def table_of(scores: Scores) -> Table:
    """{label: {seed: score}} -> array; seeds in order of first appearance."""
    seeds = tuple(dict.fromkeys(seed for row in scores.values() for seed in row))
    values = [[row.get(seed, math.nan) for seed in seeds] for row in scores.values()]
    return Table(tuple(scores), seeds, np.array(values, dtype=np.float64).reshape(len(scores), len(seeds)))


@dataclass(frozen=True)
class Weighed:
    """A difference of two rows as weights on their runs: sum(ours * row a) - sum(theirs * row b), each [seeds]."""

    a: int
    b: int
    ours: Floats
    theirs: Floats

    def __call__(self, scores: Floats) -> float:
        ours, theirs = self.ours > 0, self.theirs > 0
        return float(self.ours[ours] @ scores[self.a, ours] - self.theirs[theirs] @ scores[self.b, theirs])


def weighed(there: Bools, a: int, b: int, only: Bools, correlation: float) -> Weighed:
    """Means over common seeds; `only` marks seeds that references alone have: b's there sharpen its mean.

    With n common and m such seeds, b's mean is (1 - k) common + k further, k = m / (n + m) (1 - correlation): the least
    variance. If seeds don't pair that is the mean of all its seeds; if they pair fully, of the common ones.
    """
    return Weighed(a, b, *_weights(there[a].tobytes(), there[b].tobytes(), only.tobytes(), correlation))


@lru_cache(maxsize=256)  # most rows have the same seeds
def _weights(ours: bytes, theirs: bytes, only: bytes, correlation: float) -> tuple[Floats, Floats]:
    here, there, alone = (np.frombuffer(marks, dtype=bool) for marks in (ours, theirs, only))
    common = here & there
    further = there & alone & ~common
    n, m = int(common.sum()), int(further.sum())
    share = m / (n + m) * (1 - correlation) if n and m else 0.0
    weights = common / max(n, 1)
    return weights, (1 - share) * weights + share * further / max(m, 1)


@dataclass(frozen=True)
class Chance:
    """What chance alone does, drawn: `variances` [draws, rows], `runs` [draws, rows, seeds], `seeds` [draws, seeds]."""

    variances: Floats
    runs: Floats
    seeds: Floats
    seed_variance: float
    _known: dict[tuple[int, bytes], Floats] = field(default_factory=dict, init=False, repr=False, compare=False)

    def error(self, what: Weighed) -> Floats:
        """Errors of one difference, [draws]."""
        ours, theirs = self._of_row(what.a, what.ours), self._of_row(what.b, what.theirs)
        return np.asarray(ours - theirs + self._of_seeds(what.ours - what.theirs))

    def _of_row(self, row: int, weights: Floats) -> Floats:
        """The error of a row's mean with these weights on its runs, [draws]; it recurs in every pair with that row."""
        key = row, weights.tobytes()
        if key not in self._known:
            self._known[key] = np.sqrt(self.variances[:, row]) * (self.runs[:, row] @ weights)
        return self._known[key]

    def _of_seeds(self, weights: Floats) -> Floats:
        key = -1, weights.tobytes()
        if key not in self._known:
            self._known[key] = self.seeds @ weights
        return self._known[key]

    def scale(self, pairs: Sequence[Weighed]) -> tuple[Floats, Floats]:
        """Standard errors of differences and their degrees of freedom, in the way of Satterthwaite 1946: both [pairs].

        They are those of the scaled inverse chi-square whose logarithm has the drawn variances' mean and spread.
        """
        parts = [self._log_variances(pairs[start : start + AT_ONCE]) for start in range(0, len(pairs), AT_ONCE)]
        mean, spread = (np.concatenate(column) for column in zip(*parts, strict=True))
        half_df = inverse_trigamma(spread)
        return np.exp(0.5 * (mean + scipy.special.digamma(half_df) - np.log(half_df))), 2 * half_df

    def _log_variances(self, pairs: Sequence[Weighed]) -> tuple[Floats, Floats]:
        """Mean and variance over the draws of the logarithm of each difference's variance: both [pairs]."""
        ours, theirs = (np.stack([getattr(pair, side) for pair in pairs]) for side in ("ours", "theirs"))
        by_row = self.variances.T
        drawn = by_row[[pair.a for pair in pairs]] * (ours**2).sum(axis=1)[:, None]
        other = by_row[[pair.b for pair in pairs]]
        drawn += np.multiply(other, (theirs**2).sum(axis=1)[:, None], out=other)
        drawn += self.seed_variance * ((ours - theirs) ** 2).sum(axis=1)[:, None]
        log = np.log(drawn, out=drawn)
        return log.mean(axis=1), log.var(axis=1)


def inverse_trigamma(values: Floats) -> Floats:
    """x with trigamma(x) = value > 0, by Newton's method on 1 / trigamma: Smyth 2004, appendix."""
    values = np.maximum(values, 1e-6)
    x = 0.5 + 1 / values
    for _ in range(12):
        now = scipy.special.polygamma(1, x)
        x = x + now * (1 - now / values) / scipy.special.polygamma(2, x)
    return np.asarray(x)


def chance_of(found: Residuals, num_seeds: int, draws: int, rng: np.random.Generator) -> Chance:
    """Draws from the model, given what the runs say about its variances."""
    variances = draw_variances(found, draws, rng)
    runs = rng.standard_normal((draws, len(found.df), num_seeds))
    seeds = rng.standard_normal((draws, num_seeds)) * math.sqrt(found.seed_variance)
    return Chance(variances, runs, seeds, found.seed_variance)


def scale_of(pairs: Sequence[Weighed], chance: Chance) -> tuple[Floats, Floats, Floats]:
    """Standard errors [tests], their degrees of freedom [tests] and |t| under chance alone [draws, tests]."""
    error, df = chance.scale(pairs)
    drawn = np.empty((len(pairs), len(chance.seeds)))  # test by test: each is one piece of memory
    for place, what in enumerate(pairs):
        np.divide(np.abs(chance.error(what)), error[place], out=drawn[place])
    return error, df, drawn.T


def step_down(t: Floats, drawn: Floats, level: float = ALPHA) -> tuple[Floats, Floats]:
    """Corrected p-values and critical values of |t| [tests], given draws of |t| under chance alone [draws, tests].

    The largest |t| is held against the largest of all drawn, the next against the largest of those left, and so on: the
    chance of one false claim or more stays below `level`, whichever of the effects are real.
    """
    order = np.argsort(-t)
    largest = drawn.T[order[::-1]]  # test by test: each is one piece of memory, and all of it is large
    largest = np.maximum.accumulate(largest, axis=0, out=largest)[::-1]
    ordered = ((largest >= t[order, None]).sum(axis=1) + 1) / (len(drawn) + 1)
    corrected, critical = np.empty_like(t), np.empty_like(t)
    corrected[order] = np.maximum.accumulate(ordered)
    critical[order] = np.quantile(largest, 1 - level, axis=1, overwrite_input=True)
    return corrected, critical

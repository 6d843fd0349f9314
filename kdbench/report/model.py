"""The model of one pair: every row against the references, with all rows' runs as evidence of how much a run varies.

score = row + seed + noise of the row. A comparison is taken on common seeds, so the seed's effect falls out; the
noise's variance is learnt from all rows (`variances`). What chance alone does is drawn with a fixed seed from that
model, the references' error being the same in all comparisons with them (Dunnett 1955, 10.1080/01621459.1955.10501294).
All tests of a table are corrected together by the step-down maximum of |t| over these draws (Westfall and Young 1993).
docs/statistics.md has the formulas and the simulation.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import special, stats

from kdbench.report.statistics import ALPHA, MOST_SEEDS, POWER
from kdbench.report.variances import SHARED_BY, Bools, Floats, Residuals, draw_variances, residuals

DRAWS = 20_000
Scores = Mapping[str, Mapping[Hashable, float]]


@dataclass(frozen=True)
class Contrast:
    """`row` against `reference`, in points, over `n` common seeds. NaN is what the data can't give.

    `low`, `high`: 95% interval of this comparison alone. `joint_low`, `joint_high`: those of all comparisons of the
    table hold at once with 95%; where the step-down test claims more than they do, they end at 0. `p`: alone;
    `corrected`: over the table's tests. `std`: of one seed's difference, from the shared variances, with `df` degrees
    of freedom. `critical`: the |t| that the verdict asks of this comparison; `claimed`: the verdict. `extra`: the
    reference's further seeds that no other row has; they sharpen its mean as far as seeds don't pair. `seeds_needed`:
    to find a difference of the observed size at the corrected level in 80% of cases.
    """

    row: str
    reference: str
    n: int = 0
    extra: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    joint_low: float = math.nan
    joint_high: float = math.nan
    p: float = math.nan
    corrected: float = math.nan
    std: float = math.nan
    df: float = math.nan
    critical: float = math.nan
    claimed: bool = False
    seeds_needed: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All comparisons of one pair. `std`: a run's standard deviation by row, shared as far as rows are alike."""

    contrasts: tuple[Contrast, ...]
    std: dict[str, float]
    seed_correlation: float

    def of(self, row: str, reference: str) -> Contrast | None:
        return next((c for c in self.contrasts if (c.row, c.reference) == (row, reference)), None)


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


@dataclass(frozen=True)
class Chance:
    """What chance alone does, drawn: `variances` [draws, rows], `runs` [draws, rows, seeds], `seeds` [draws, seeds]."""

    variances: Floats
    runs: Floats
    seeds: Floats
    seed_variance: float

    def error(self, what: Weighed) -> Floats:
        """Errors of one difference, [draws]."""
        ours = np.sqrt(self.variances[:, what.a]) * (self.runs[:, what.a] @ what.ours)
        theirs = np.sqrt(self.variances[:, what.b]) * (self.runs[:, what.b] @ what.theirs)
        return np.asarray(ours - theirs + self.seeds @ (what.ours - what.theirs))

    def scale(self, pairs: Sequence[Weighed]) -> tuple[Floats, Floats]:
        """Standard errors of differences and their degrees of freedom, in the way of Satterthwaite 1946: both [pairs].

        They are those of the scaled inverse chi-square whose logarithm has the drawn variances' mean and spread.
        """
        ours, theirs = (np.stack([getattr(pair, side) for pair in pairs]) for side in ("ours", "theirs"))
        drawn = self.variances[:, [pair.a for pair in pairs]] * (ours**2).sum(axis=1)
        drawn += self.variances[:, [pair.b for pair in pairs]] * (theirs**2).sum(axis=1)
        log = np.log(drawn + self.seed_variance * ((ours - theirs) ** 2).sum(axis=1))
        half_df = inverse_trigamma(log.var(axis=0))
        return np.exp(0.5 * (log.mean(axis=0) + special.digamma(half_df) - np.log(half_df))), 2 * half_df


def inverse_trigamma(values: Floats) -> Floats:
    """x with trigamma(x) = value > 0, by Newton's method on 1 / trigamma: Smyth 2004, appendix."""
    values = np.maximum(values, 1e-6)
    x = 0.5 + 1 / values
    for _ in range(12):
        now = special.polygamma(1, x)
        x = x + now * (1 - now / values) / special.polygamma(2, x)
    return np.asarray(x)


def chance_of(found: Residuals, num_seeds: int, draws: int, rng: np.random.Generator) -> Chance:
    """Draws from the model, given what the runs say about its variances."""
    variances = draw_variances(found, draws, rng)
    runs = rng.standard_normal((draws, len(found.df), num_seeds))
    seeds = rng.standard_normal((draws, num_seeds)) * math.sqrt(found.seed_variance)
    return Chance(variances, runs, seeds, found.seed_variance)


def compare(
    scores: Scores,
    references: Sequence[str],
    *,
    only: Collection[tuple[str, str]] | None = None,
    level: float = ALPHA,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Every row against every reference, each pair of references once; rows in order, reference by reference.

    `scores`: {label: {seed: score}}; a missing or NaN score is no run. References that have no row are left out.
    `only`: the (row, reference) to be tested, the others stand without intervals. `level`: of a table's false claims.
    `draws` and `seed`: of chance; a fixed seed, for the same records shall give the same table.
    """
    table = table_of(scores)
    found = residuals(table.scores)
    here = [name for name in references if name in table.labels]
    pairs = pairs_of(table, here, found.seed_correlation)
    contrasts = [_bare(table, what) for what in pairs]
    if found.pooled <= 0:
        bare = tuple(map(_without_spread, contrasts))
        return Comparison(bare, dict.fromkeys(table.labels, math.nan), found.seed_correlation)
    chance = chance_of(found, len(table.seeds), draws, np.random.default_rng(seed))
    tested = [i for i, c in enumerate(contrasts) if c.n > 1 and (only is None or (c.row, c.reference) in only)]
    made = _tested([contrasts[i] for i in tested], [pairs[i] for i in tested], chance, level)
    for i, contrast in zip(tested, made, strict=True):
        contrasts[i] = contrast
    std = np.exp(0.5 * np.log(chance.variances).mean(axis=0)).tolist()
    return Comparison(tuple(contrasts), dict(zip(table.labels, std, strict=True)), found.seed_correlation)


def pairs_of(table: Table, references: Sequence[str], correlation: float) -> list[Weighed]:
    """What `compare` compares: reference by reference all rows against it, two references once."""
    there = ~np.isnan(table.scores)
    order = [table.labels.index(name) for name in references]
    others = [i for i in range(len(table.labels)) if i not in order]
    taken = there[others].any(axis=0) if len(table.labels) >= SHARED_BY else np.full(len(table.seeds), True)
    only = np.asarray(~taken)
    return [
        weighed(there, a, b, only, correlation)
        for place, b in enumerate(order)
        for a in range(len(table.labels))
        if a not in order[: place + 1]
    ]


def weighed(there: Bools, a: int, b: int, only: Bools, correlation: float) -> Weighed:
    """Means over common seeds; `only` marks seeds that references alone have: b's there sharpen its mean.

    With n common and m such seeds, b's mean is (1 - k) common + k further, k = m / (n + m) (1 - correlation): the least
    variance. If seeds don't pair that is the mean of all its seeds; if they pair fully, of the common ones.
    """
    common = there[a] & there[b]
    further = there[b] & only & ~common
    n, m = int(common.sum()), int(further.sum())
    share = m / (n + m) * (1 - correlation) if n and m else 0.0
    ours = common / max(n, 1)
    return Weighed(a, b, ours, (1 - share) * ours + share * further / max(m, 1))


def _bare(table: Table, what: Weighed) -> Contrast:
    n = int((what.ours > 0).sum())
    extra = int((what.theirs > 0).sum()) - n
    mean = what(table.scores) if n else math.nan
    return Contrast(table.labels[what.a], table.labels[what.b], n, extra, mean)


def _without_spread(contrast: Contrast) -> Contrast:
    """No run of the table differs from another of its row: a tie if the means are equal, else nothing to judge by."""
    if contrast.n < 2:
        return contrast
    tie = 1.0 if abs(contrast.mean) < 1e-9 else math.nan
    return replace(contrast, p=tie, corrected=tie, std=0.0)


def _tested(contrasts: list[Contrast], pairs: list[Weighed], chance: Chance, level: float) -> list[Contrast]:
    if not contrasts:
        return []
    error, df, drawn = scale_of(pairs, chance)
    t = np.abs([contrast.mean for contrast in contrasts]) / error
    corrected, critical = step_down(t, drawn, level)
    widest = np.full(len(t), np.quantile(drawn.max(axis=1), 1 - level))
    alone, p, tail = stats.t.ppf(1 - ALPHA / 2, df), 2 * stats.t.sf(t, df), stats.t.sf(critical, df)
    claimed = np.maximum(p, corrected) < level
    numbers = np.stack(
        [error, df, p, np.maximum(p, corrected), critical, tail, alone, widest, claimed], axis=1
    ).tolist()
    return [_filled(contrast, *found) for contrast, found in zip(contrasts, numbers, strict=True)]


def scale_of(pairs: Sequence[Weighed], chance: Chance) -> tuple[Floats, Floats, Floats]:
    """Standard errors [tests], their degrees of freedom [tests] and |t| under chance alone [draws, tests]."""
    error, df = chance.scale(pairs)
    return error, df, np.abs(np.stack([chance.error(what) for what in pairs], axis=1)) / error


def step_down(t: Floats, drawn: Floats, level: float = ALPHA) -> tuple[Floats, Floats]:
    """Corrected p-values and critical values of |t| [tests], given draws of |t| under chance alone [draws, tests].

    The largest |t| is held against the largest of all drawn, the next against the largest of those left, and so on: the
    chance of one false claim or more stays below `level`, whichever of the effects are real.
    """
    order = np.argsort(-t)
    largest = np.maximum.accumulate(drawn[:, order[::-1]], axis=1)[:, ::-1]
    ordered = ((largest >= t[order]).sum(axis=0) + 1) / (len(drawn) + 1)
    corrected, critical = np.empty_like(t), np.empty_like(t)
    corrected[order] = np.maximum.accumulate(ordered)
    critical[order] = np.quantile(largest, 1 - level, axis=0)
    return corrected, critical


def _filled(
    bare: Contrast,
    error: float,
    df: float,
    p: float,
    corrected: float,
    critical: float,
    tail: float,
    alone: float,
    widest: float,
    claimed: float,
) -> Contrast:
    """`tail`: the one-sided level of `critical`; `alone`, `widest`: half-widths of intervals in standard errors."""
    low, high = bare.mean - widest * error, bare.mean + widest * error
    if claimed:
        low, high = (max(low, 0.0), high) if bare.mean > 0 else (low, min(high, 0.0))
    std = error * math.sqrt(bare.n)
    return replace(
        bare,
        low=bare.mean - alone * error,
        high=bare.mean + alone * error,
        joint_low=low,
        joint_high=high,
        p=p,
        corrected=corrected,
        std=std,
        df=df,
        critical=critical,
        claimed=bool(claimed),
        seeds_needed=seeds_needed(bare.mean, std, tail, df / (bare.n - 1)),
    )


def seeds_needed(mean: float, std: float, tail: float, df_a_seed: float) -> int | None:
    """How many common seeds find a difference of `mean` in 80% of cases at the level that decides the verdict.

    `std`: of one seed's difference; `tail`: that level, one-sided; `df_a_seed`: degrees of freedom that each seed after
    the first brings. None without a difference or a spread; `MOST_SEEDS` stands for that many or more.
    """
    if not (std > 0 and abs(mean) / std > 1e-6):
        return None
    return _needed(round(abs(mean) / std, 3), float(f"{max(tail, 1e-7):.3g}"), round(df_a_seed, 2))


@lru_cache(maxsize=4096)
def _needed(effect: float, tail: float, df_a_seed: float) -> int:
    low, high = 2, MOST_SEEDS
    while low < high:  # power rises with n
        middle = (low + high) // 2
        df = df_a_seed * (middle - 1)
        if stats.nct.sf(stats.t.isf(tail, df), df, effect * math.sqrt(middle)) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low

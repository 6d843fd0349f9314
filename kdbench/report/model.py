"""The model of one pair: every row against the references, with all rows' runs as evidence of how much a run varies.

score = row + seed + noise of the row. A comparison is taken on common seeds, so the seed's effect falls out; the
noise's variance is learnt from all rows (`variances`). What chance alone does is drawn with a fixed seed from that
model, the references' error being the same in all comparisons with them (Dunnett 1955, 10.1080/01621459.1955.10501294).
All tests of a table are corrected together by the step-down maximum of |t| over these draws (Westfall and Young 1993).
docs/statistics.md has the formulas and the simulation.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy

from kdbench.report.chance import Chance, Scores, Table, Weighed, chance_of, scale_of, step_down, table_of, weighed
from kdbench.report.statistics import ALPHA, MOST_SEEDS, POWER, beyond, fewer
from kdbench.report.variances import SHARED_BY, residuals

DRAWS = 20_000
LARGE = 350  # runs: tables beyond get fewer draws


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

    @cached_property
    def _by_name(self) -> dict[tuple[str, str], Contrast]:
        return {(c.row, c.reference): c for c in self.contrasts}

    def of(self, row: str, reference: str) -> Contrast | None:
        return self._by_name.get((row, reference))


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
    draws = fewer(draws, table.scores.size, LARGE)
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
    alone, p, tail = scipy.stats.t.ppf(1 - ALPHA / 2, df), 2 * scipy.stats.t.sf(t, df), scipy.stats.t.sf(critical, df)
    claimed = np.maximum(p, corrected) < level
    columns = (error, df, p, np.maximum(p, corrected), critical, tail, alone, widest, claimed)
    return [
        _filled(bare, _Found(*numbers))
        for bare, *numbers in zip(contrasts, *(x.tolist() for x in columns), strict=True)
    ]


@dataclass(frozen=True)
class _Found:
    """What was found for one comparison. `tail`: the one-sided level of `critical`; `alone`, `widest`: half-widths of
    intervals in standard errors (`error`).
    """

    error: float
    df: float
    p: float
    corrected: float
    critical: float
    tail: float
    alone: float
    widest: float
    claimed: bool


def _filled(bare: Contrast, found: _Found) -> Contrast:
    low, high = bare.mean - found.widest * found.error, bare.mean + found.widest * found.error
    if found.claimed:
        low, high = (max(low, 0.0), high) if bare.mean > 0 else (low, min(high, 0.0))
    std = found.error * math.sqrt(bare.n)
    return replace(
        bare,
        low=bare.mean - found.alone * found.error,
        high=bare.mean + found.alone * found.error,
        joint_low=low,
        joint_high=high,
        p=found.p,
        corrected=found.corrected,
        std=std,
        df=found.df,
        critical=found.critical,
        claimed=bool(found.claimed),
        seeds_needed=seeds_needed(bare.mean, std, found.tail, found.df / (bare.n - 1)),
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
        if beyond(-float(scipy.special.stdtrit(df, tail)), df, effect * math.sqrt(middle)) >= POWER:
            high = middle
        else:
            low = middle + 1
    return low

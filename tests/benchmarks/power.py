"""Simulation of the verdicts: false claims, coverage, power, over tables whose truth is known.

    python tests/benchmarks/power.py [--draws 2000] [--rows 8 20 41] [--seeds 3 5] [--spreads 0 0.3 0.6]

A run varies by 0.3 points; the rows' standard deviations, the references' included, are 0.3 x exp(spread x normal -
spread^2), so that their mean square is the same for all spreads (`--median`: without the last term, more noise).
Every row is compared with the student alone and with kd: 2 x rows - 3 tests, corrected together. `false, null`: tables
with one false claim or more where no row differs from another; `false, mixed`: where rows lie 0 to 2.5 points above the
student alone, kd at 1. `covered`: 95% intervals of single comparisons that hold the truth. `found`: share of the true
differences of 1 point (either sign) that are claimed. `warns`: tables that say their rows' spreads differ. Last, for
comparison: found by paired t tests, each row by itself, and Holm's correction.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdbench.report.chance import Table, chance_of, scale_of, step_down
from kdbench.report.model import pairs_of
from kdbench.report.statistics import ALPHA, holm
from kdbench.report.variances import Floats, residuals, spreads_differ

SD = 0.3
EFFECTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)


@dataclass(frozen=True)
class Seen:
    """What one simulated table showed."""

    false_null: bool
    false_mixed: bool
    covered: float
    found: float
    paired: float
    warns: bool


def simulate(
    rows: int,
    seeds: int,
    spread: float,
    draws: int,
    *,
    inner: int = 1000,
    pairing: float = 0.0,
    extra: int = 0,
    median: bool = False,
) -> list[Seen]:
    """`draws` tables. `inner`: draws of chance within each; `pairing`: sd of the seeds' effect on all rows alike;
    `extra`: seeds of the two references beyond those of the other rows; `median`: 0.3 is the median, see above."""
    rng = np.random.default_rng([rows, seeds, round(100 * spread), round(100 * pairing), extra])
    return [_table(noise, inner, rng) for noise in _noise(rng, rows, seeds, spread, draws, pairing, extra, median)]


def _noise(
    rng: np.random.Generator, rows: int, seeds: int, spread: float, draws: int, pairing: float, extra: int, median: bool
) -> Iterator[Floats]:
    for _ in range(draws):
        sd = SD * np.exp(spread * rng.standard_normal((rows, 1)) - (0 if median else spread**2))
        noise = sd * rng.standard_normal((rows, seeds + extra)) + pairing * rng.standard_normal(seeds + extra)
        noise[2:, seeds:] = np.nan
        yield noise


def _table(noise: Floats, inner: int, rng: np.random.Generator) -> Seen:
    """The steps of `compare`; the draws of chance, which the rows' means don't touch, serve both truths."""
    names = tuple(map(str, range(len(noise))))
    table = Table(names, tuple(range(noise.shape[1])), noise)
    left = residuals(noise)
    pairs = pairs_of(table, names[:2], left.seed_correlation)
    error, df, drawn = scale_of(pairs, chance_of(left, noise.shape[1], inner, rng))
    errors = np.array([pair(noise) for pair in pairs])
    means = np.r_[0.0, 1.0, np.resize(EFFECTS, len(noise) - 2)]
    truth = np.array([means[pair.a] - means[pair.b] for pair in pairs])
    null = step_down(np.abs(errors) / error, drawn)[0] < ALPHA
    mixed = step_down(np.abs(errors + truth) / error, drawn)[0] < ALPHA
    covered = np.abs(errors) < stats.t.ppf(1 - ALPHA / 2, df) * error
    one = np.abs(truth) == 1
    differences = np.stack([noise[pair.a] - noise[pair.b] for pair in pairs], axis=1) + truth
    paired = holm(stats.ttest_1samp(differences, 0.0, nan_policy="omit").pvalue) < ALPHA
    return Seen(
        bool(null.any()),
        bool(mixed[truth == 0].any()),
        float(covered.mean()),
        float(mixed[one].mean()),
        float(paired[one].mean()),
        spreads_differ(noise, 200) < ALPHA,
    )


def line(rows: int, seeds: int, spread: float, seen: list[Seen]) -> str:
    def mean(name: str) -> float:
        return float(np.mean([getattr(one, name) for one in seen]))

    numbers = [mean(name) for name in ("false_null", "false_mixed", "covered", "found", "warns", "paired")]
    texts = [f"{number:.3f}" for number in numbers[:3]] + [f"{number:.2f}" for number in numbers[3:]]
    return f"| {rows} x {seeds} | {f'lognormal {spread}' if spread else 'equal'} | {' | '.join(texts)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--inner", type=int, default=500, help="draws of chance within a table")
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 20, 41])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.0, 0.3, 0.6])
    parser.add_argument("--pairing", type=float, default=0.0, help="sd of the seeds' effect, points")
    parser.add_argument(
        "--median", action="store_true", help="0.3 is the median of the rows' sd, not the mean square's root"
    )
    parser.add_argument("--extra", type=int, default=0, help="further seeds of the two references")
    args = parser.parse_args()
    print("| rows x seeds | spread | false, null | false, mixed | covered | found | warns | found by Holm, paired t |")
    print("|:--|:--|--:|--:|--:|--:|--:|--:|")
    for seeds in args.seeds:
        for rows in args.rows:
            for spread in args.spreads:
                seen = simulate(
                    rows,
                    seeds,
                    spread,
                    args.draws,
                    inner=args.inner,
                    pairing=args.pairing,
                    extra=args.extra,
                    median=args.median,
                )
                print(line(rows, seeds, spread, seen), flush=True)


if __name__ == "__main__":
    main()

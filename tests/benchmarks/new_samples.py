"""Do intervals for new samples cover? On simulated samples, and on real ones from halves of a test set.

    python tests/benchmarks/new_samples.py [--tables 2000]
    kdbench run tests/benchmarks/new_samples.yaml --results FOLDER
    python tests/benchmarks/new_samples.py --records FOLDER/new-samples/records [--seeds 3] [--splits 200]

Simulated: a student gets a sample right if row + seed + sample + row's own taste for the sample + luck is above 0,
all normal; the truth is the difference of two rows over all seeds and samples, known in closed form. `records`: of one
pair's students. A few seeds on one half of the samples give an interval; the other seeds on the
other half give what it should hold, whose own variance is added.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from scipy import stats

from kdbench.report.model import compare
from kdbench.report.outcomes import Crossed, Right, crossed, new_samples
from kdbench.report.variances import Floats
from kdbench.results.outcomes import unpacked

SEED, SAMPLE, TASTE = 0.03, 1.5, 0.7  # standard deviations, luck's is 1


def draw(rng: np.random.Generator, levels: Floats, seeds: int, samples: int) -> Right:
    """Outcomes [rows, seeds, samples]."""
    rows = len(levels)
    common = SAMPLE * rng.standard_normal(samples) + TASTE * rng.standard_normal((rows, 1, samples))
    centre = levels[:, None, None] + SEED * rng.standard_normal((rows, seeds, 1)) + common
    return np.asarray(centre + rng.standard_normal((rows, seeds, samples)) > 0)


def coverage(rows: int, seeds: int, samples: int, tables: int) -> tuple[float, float]:
    """Share of intervals for new samples that hold the truth, and of those for these samples."""
    rng = np.random.default_rng([rows, seeds, samples])
    levels = np.linspace(0.5, 0.8, rows)
    truth = 100 * stats.norm.cdf(levels / math.sqrt(1 + SEED**2 + SAMPLE**2 + TASTE**2))
    hits = []
    for _ in range(tables):
        right = draw(rng, levels, seeds, samples)
        scores = {str(i): dict(enumerate(100 * row.mean(axis=1))) for i, row in enumerate(right)}
        for contrast in compare(scores, ["0"], draws=1000).contrasts:
            row = int(contrast.row)
            low, high = new_samples(
                contrast.mean, contrast.std**2 / contrast.n, contrast.df, crossed(right[row], right[0])
            )
            known = truth[row] - truth[0]
            hits.append((low < known < high, contrast.low < known < contrast.high))
    covered, these = np.mean(hits, axis=0)
    return float(covered), float(these)


def outcomes_of(records: Path) -> dict[str, Right]:
    """label -> which samples its students got right [seeds, samples]."""
    found: dict[str, dict[int, Right]] = {}
    for path in sorted(records.glob("*.json")):
        record = json.loads(path.read_text())
        outcomes = unpacked(record.get("outcomes") or {})
        if outcomes is not None:
            found.setdefault(record["label"], {})[record["seed"]] = outcomes.right
    return {label: np.stack([row[seed] for seed in sorted(row)]) for label, row in found.items()}


def halves(outcomes: dict[str, Right], seeds: int, splits: int) -> tuple[float, float]:
    """Share of the differences on other halves and other seeds that intervals for new samples hold.

    With the seeds' variance from the model of all rows, as tables have it, and from each difference's own seeds.
    """
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(splits):
        total, samples = next(iter(outcomes.values())).shape
        order, half = rng.permutation(total), rng.permutation(samples)
        ours, rest = order[:seeds], order[seeds:]
        one, other = half[: samples // 2], half[samples // 2 :]
        means = {label: 100 * right[np.ix_(ours, one)].mean(axis=1) for label, right in outcomes.items()}
        found = compare({label: dict(enumerate(row)) for label, row in means.items()}, list(outcomes), draws=1000)
        for contrast in found.contrasts:
            a, b = contrast.row, contrast.reference
            here = crossed(outcomes[a][np.ix_(ours, one)], outcomes[b][np.ix_(ours, one)])
            there = crossed(outcomes[a][np.ix_(rest, other)], outcomes[b][np.ix_(rest, other)])
            shared = contrast.std**2 / contrast.n, contrast.df
            hits.append([_holds(here, there, *of_seeds) for of_seeds in (shared, (here.of_seeds, seeds - 1))])
    model, own = np.mean(hits, axis=0).tolist()
    return model, own


def _holds(here: Crossed, there: Crossed, of_seeds: float, df: float) -> bool:
    """`of_seeds`, `df`: the seeds' part of the variance here."""
    parts = (of_seeds, df), (there.of_seeds, there.num_seeds - 1)
    samples = here.of_samples + there.of_samples
    total = of_seeds + there.of_seeds + samples
    df = total**2 / (sum(v**2 / n for v, n in parts) + samples**2 / (here.num_samples - 1))
    return abs(here.mean - there.mean) < float(stats.t.ppf(0.975, df)) * math.sqrt(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--records", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--splits", type=int, default=200)
    args = parser.parse_args()
    if args.records:
        model, own = halves(outcomes_of(args.records), args.seeds, args.splits)
        print(f"{args.seeds} seeds: {model:.3f} of differences on other halves and seeds are held, {own:.3f} by own")
        return
    print("| rows x seeds | samples | covered, new samples | covered by the interval for these samples |")
    print("|:--|--:|--:|--:|")
    for seeds in (3, 5):
        for samples in (500, 2000):
            covered, these = coverage(8, seeds, samples, args.tables)
            print(f"| 8 x {seeds} | {samples} | {covered:.3f} | {these:.3f} |", flush=True)


if __name__ == "__main__":
    main()

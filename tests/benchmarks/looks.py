"""Simulation of `--until-decided`: false claims over all looks, power, and seeds spent, against all seeds at once.

    python tests/benchmarks/looks.py [--tables 1000] [--rows 8] [--looks 3 5 7 10] [--spread 0.3]

Tables as in `power.py`. `seeds`: mean number of runs a row gets, the references included.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from power import EFFECTS, SD

from kdbench.report.looks import Progress, until_decided
from kdbench.report.model import compare
from kdbench.report.variances import Floats


@dataclass(frozen=True)
class Seen:
    false_null: bool
    false_mixed: bool
    found: float
    found_at_once: float
    seeds_null: float
    seeds: float


def simulate(rows: int, looks: Sequence[int], tables: int, spread: float = 0.3, draws: int = 2000) -> list[Seen]:
    rng = np.random.default_rng([rows, looks[-1], round(100 * spread)])
    return [_table(rng, rows, looks, spread, draws, number) for number in range(tables)]


def _table(rng: np.random.Generator, rows: int, looks: Sequence[int], spread: float, draws: int, number: int) -> Seen:
    noise = SD * np.exp(spread * rng.standard_normal((rows, 1))) * rng.standard_normal((rows, looks[-1]))
    means = np.r_[0.0, 1.0, np.resize(EFFECTS, rows - 2)]
    null, seeds_null = _run(noise, looks, draws, number)
    mixed, seeds = _run(noise + means[:, None], looks, draws, number)
    truth = {pair: means[int(pair[0])] - means[int(pair[1])] for pair in mixed.standings}
    claimed = {pair: standing.state == "decided" for pair, standing in mixed.standings.items()}
    scores = {str(i): dict(enumerate(row)) for i, row in enumerate(noise + means[:, None])}
    at_once = {(c.row, c.reference): c.claimed for c in compare(scores, ["0", "1"], draws=draws, seed=number).contrasts}
    one = [pair for pair, size in truth.items() if abs(size) == 1]
    return Seen(
        bool(null.among("decided")),
        any(claimed[pair] for pair, size in truth.items() if size == 0),
        float(np.mean([claimed[pair] for pair in one])),
        float(np.mean([at_once[pair] for pair in one])),
        seeds_null,
        seeds,
    )


def _run(values: Floats, looks: Sequence[int], draws: int, number: int) -> tuple[Progress, float]:
    """As `kdbench run --until-decided` does it: ask what is missing, run that, ask again."""
    scores: dict[str, dict[int, float]] = {str(i): {} for i in range(len(values))}
    while True:
        found = until_decided(scores, ["0", "1"], range(looks[-1]), looks, draws=draws, draw_seed=number)
        if not found.missing:
            return found, sum(map(len, scores.values())) / len(scores)
        for label, seeds in found.missing.items():
            scores[label] |= {int(str(seed)): float(values[int(label), int(str(seed))]) for seed in seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--rows", type=int, nargs="+", default=[8])
    parser.add_argument("--looks", type=int, nargs="+", default=[3, 5, 7, 10])
    parser.add_argument("--spread", type=float, default=0.3)
    args = parser.parse_args()
    print("| rows, looks | false, null | false, mixed | found | found with all seeds | seeds, null | seeds, mixed |")
    print("|:--|--:|--:|--:|--:|--:|--:|")
    for rows in args.rows:
        seen = simulate(rows, args.looks, args.tables, args.spread)
        names = ("false_null", "false_mixed", "found", "found_at_once", "seeds_null", "seeds")
        numbers = [float(np.mean([getattr(one, name) for one in seen])) for name in names]
        texts = (
            [f"{x:.3f}" for x in numbers[:2]] + [f"{x:.2f}" for x in numbers[2:4]] + [f"{x:.1f}" for x in numbers[4:]]
        )
        print(f"| {rows}, {', '.join(map(str, args.looks))} | {' | '.join(texts)} |", flush=True)


if __name__ == "__main__":
    main()

"""Who may be the best row of a pair: which rows are ranked, and which of them can't be told apart."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from kdbench.report.gains import rows_of
from kdbench.report.statistics import ALPHA, MANY_ROWS, fewer
from kdbench.report.ties import DRAWS, tiers
from kdbench.report.variances import correlation_of_seeds, spreads_differ

MOST_GROUPED = 100  # rows, the best: each is held against each

BySeed = dict[Hashable, float]


@dataclass(frozen=True)
class Standing:
    """`scores`: of the ranked rows, label -> seed -> score. `means`: over the seeds that all of them have.

    `groups`: the rows tied for the top, then those tied for the top of the others, and so on; rows with one seed are in
    none. `unequal`: the rows' scores vary by different amounts from seed to seed. `seed_correlation`: the share of that
    which rows on the same seed have in common; NaN where too little is known.
    """

    scores: dict[str, BySeed] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()
    unequal: bool = False
    seed_correlation: float = float("nan")

    def tier(self, label: str) -> int | None:
        return next((place for place, group in enumerate(self.groups) if label in group), None)


def standing_of(scores: pd.DataFrame, lost: Mapping[str, int], cells: Mapping[str, int]) -> Standing:
    """`scores`: a row per label, a column per seed. `lost`: seeds a row diverged or failed on; `cells`: all it has.

    A row that lost seeds is not ranked: what is left of it is not a fair sample. Nor is one whose cells are not all
    done yet, as long as another's are.
    """
    known = rows_of(scores)
    counts = {label: len(row) for label, row in known.items() if not lost.get(label)}
    whole = [label for label, count in counts.items() if count and count == cells[label]]
    labels = whole or [label for label, count in counts.items() if count and count == max(counts.values())]
    if not labels:
        return Standing()
    kept = scores.loc[labels]
    common = kept.dropna(axis=1)
    means = (common if common.shape[1] else kept).mean(axis=1)
    by_seed = {str(label): known[str(label)] for label in kept.index}
    best = {str(label): by_seed[str(label)] for label in means.sort_values(ascending=False).index[:MOST_GROUPED]}
    table = scores.to_numpy(dtype=np.float64)
    groups = tuple(tiers(best, fewer(DRAWS, len(scores), MANY_ROWS)))
    unequal, paired = spreads_differ(table) < ALPHA, correlation_of_seeds(table)
    return Standing(by_seed, {str(k): float(v) for k, v in means.items()}, groups, unequal, paired)

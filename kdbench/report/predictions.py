"""What a pair's students made of the test examples: intervals that hold for new ones, and whose errors they copy."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdbench.report.model import Contrast
from kdbench.report.outcomes import agreement, copied_errors, crossed, new_samples
from kdbench.results.outcomes import Outcomes, unpacked

BySeed = Mapping[int, Outcomes]
ByLabel = Mapping[str, BySeed]
NAN = float("nan")


def outcomes_of(done: pd.DataFrame, packed: Mapping[str, Any]) -> ByLabel:
    """label -> seed -> outcomes of a pair's finished cells; without those judged on other examples than the first."""
    found: dict[str, dict[int, Outcomes]] = {}
    first: Outcomes | None = None
    for key, label, seed in done.reindex(columns=["key", "label", "seed"]).itertuples(index=False):
        read = unpacked(packed[key]) if key in packed else None
        if read is None or (first is not None and not np.array_equal(first.target, read.target)):
            continue
        first = first or read
        found.setdefault(str(label), {})[int(seed)] = read
    return found


def for_new_samples(contrast: Contrast, ours: BySeed, theirs: BySeed) -> tuple[float, float]:
    """95% interval of a comparison for other seeds and other test examples of the same kind; NaN where it can't be had.

    The seeds' part is the pair's model's; what other examples add comes from the outcomes on common seeds.
    """
    common = [seed for seed in ours if seed in theirs]
    if len(common) < 2 or len(common) < contrast.n or not contrast.std > 0:
        return NAN, NAN
    right, other = (np.stack([row[seed].right for seed in common]) for row in (ours, theirs))
    low, high = new_samples(contrast.mean, contrast.std**2 / contrast.n, contrast.df, crossed(right, other))
    return min(low, contrast.low), max(high, contrast.high)  # more degrees of freedom must not make it the narrower one


def between_seeds(row: BySeed) -> float:
    """Percent of the test examples to which two students of this row, of different seeds, give one class."""
    pairs = [agreement(a.predicted, b.predicted) for a, b in combinations(row.values(), 2)]
    return 100 * float(np.mean(pairs)) if pairs else NAN


def copied(row: BySeed) -> float:
    """Percent of the teacher's errors that the students of this row make too, with the same wrong class."""
    if not row:
        return NAN
    found = list(row.values())
    predicted, teacher = (np.stack([getattr(one, name) for one in found]) for name in ("predicted", "teacher"))
    return 100 * copied_errors(predicted, teacher, found[0].target)

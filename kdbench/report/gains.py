"""Gains: from the scores of one pair to what each row wins over the student alone and over the reference.

This is the only place where a claim about a row is made; `model.py` has the tests, which all rows of the pair share.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kdbench.report import statistics
from kdbench.report.looks import Progress
from kdbench.report.model import Contrast, compare
from kdbench.report.predictions import ByLabel, for_new_samples
from kdbench.report.statistics import MOST_SEEDS, Difference

STUDENT = "the student alone"


@dataclass(frozen=True)
class Gain:
    """A row's mean score minus another row's. What the data can't give is NaN (see `Contrast`).

    `own`: the paired t test of these two rows by themselves, which learns nothing from the others. `lost`: seeds that
    the row lost because it diverged or failed on them.
    """

    contrast: Contrast
    own: Difference
    says: str  # what the corrected test says, in words
    lost: int = 0
    new_low: float = math.nan  # 95% interval for other test examples of the same kind too
    new_high: float = math.nan

    @property
    def n(self) -> int:
        """Seeds that both rows have."""
        return self.contrast.n

    @property
    def mean(self) -> float:
        return self.contrast.mean

    @property
    def low(self) -> float:
        """95% interval of this comparison alone."""
        return self.contrast.low

    @property
    def high(self) -> float:
        return self.contrast.high

    @property
    def joint_low(self) -> float:
        """These intervals hold for all comparisons of the pair at once."""
        return self.contrast.joint_low

    @property
    def joint_high(self) -> float:
        return self.contrast.joint_high

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def p(self) -> float:
        return self.contrast.p

    @property
    def p_corrected(self) -> float:
        """Over every test of the pair's table."""
        return self.contrast.corrected

    @property
    def seeds_needed(self) -> int | None:
        """To find a difference of this size at the corrected level; None without a spread to judge by."""
        return self.contrast.seeds_needed

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)

    @property
    def has_new_interval(self) -> bool:
        return math.isfinite(self.new_low)

    @property
    def tested(self) -> bool:
        return math.isfinite(self.p_corrected)

    @property
    def claim(self) -> int:
        """1: better by the corrected test, -1: worse, 0: not distinguishable (or never tested).

        A row that lost seeds is never called better: the seeds that are left may be the lucky ones.
        """
        if not self.contrast.claimed:
            return 0
        return -1 if self.mean < 0 else int(not self.lost)


@dataclass(frozen=True)
class Gains:
    """Of every row by its label, in two comparisons. A row that is not compared there is not in the dictionary."""

    alone: dict[str, Gain] = field(default_factory=dict)  # against the student alone
    reference: dict[str, Gain] = field(default_factory=dict)  # against the row labelled as the reference


def gains_of(
    scores: pd.DataFrame,
    alone: Collection[str],
    reference: str,
    lost: Mapping[str, int] | None = None,
    outcomes: ByLabel | None = None,
    progress: Progress | None = None,
) -> Gains:
    """Compare the rows of one pair.

    `scores`: one row per label, one column per seed, NaN where there is no score. `alone`: the labels whose objective
    is the student alone; they are compared with nothing. `reference`: the other row to compare with, which need not
    be there. `lost`: label -> seeds on which it diverged or failed.
    `outcomes`: what the students made of each test example, where that is known. `progress`: where seeds were added
    until decided, the comparisons as they were looked at.
    """
    student, _ = references = references_of(scores.index, alone, reference)
    rows = rows_of(scores)
    found = progress or compare(rows, list(dict.fromkeys(references)))
    gains = Gains()
    for label in (str(label) for label in scores.index if label not in alone):
        for other, name, kept in ((student, STUDENT, gains.alone), (reference, reference, gains.reference)):
            if label != other:
                contrast = found.of(label, other) or Contrast(label, other)
                own = statistics.of_differences(differences(rows[label], rows.get(other, {})))
                gone = (lost or {}).get(label, 0)
                known = outcomes or {}
                new = for_new_samples(contrast, known.get(label, {}), known.get(other, {}))
                says = verdict(contrast, name, gone) + (looked_at(progress, label, other) if progress else "")
                kept[label] = Gain(contrast, own, says, gone, *new)
    return gains


def references_of(labels: Iterable[Any], alone: Collection[str], reference: str) -> tuple[str, str]:
    """What all rows are compared with: the first that is the student alone, and the one labelled as the reference."""
    return next((str(label) for label in labels if label in alone), STUDENT), reference


def looked_at(progress: Progress, row: str, reference: str) -> str:
    """At which look a comparison was judged."""
    standing = progress.standings.get((row, reference))
    if standing is None:
        return ""
    return f" ({standing.state} at the look at {standing.seeds} seeds)"


def rows_of(scores: pd.DataFrame) -> dict[str, dict[Hashable, float]]:
    """label -> seed -> score, without what is NaN; of hundreds of rows, a series for each would take seconds."""
    seeds = scores.columns.tolist()
    values = scores.to_numpy(dtype=np.float64).tolist()
    return {
        str(label): {seed: score for seed, score in zip(seeds, row, strict=True) if not math.isnan(score)}
        for label, row in zip(scores.index, values, strict=True)
    }


def differences(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float]) -> statistics.Floats:
    """Seed by seed, on those that both have."""
    return np.array([score - theirs[seed] for seed, score in ours.items() if seed in theirs], dtype=np.float64)


def verdict(contrast: Contrast, other: str, lost: int = 0) -> str:
    """What the numbers say, in words."""
    found = _verdict(contrast, other)
    if not lost:
        return found
    left = f"lost {lost} seed{'s' * (lost > 1)}, so it can't be called better"
    if contrast.claimed and contrast.mean > 0:
        return f"{left} than {other}; on the seeds that are left it is above"
    return f"{left}; on the seeds that are left: {found}"


def _verdict(contrast: Contrast, other: str) -> str:
    n, mean = contrast.n, contrast.mean
    if n == 0:
        return f"no seed in common with {other}"
    if n == 1:
        return "one seed: no interval, nothing can be said"
    if math.isnan(contrast.p):
        return "no row varies from seed to seed: no spread to judge by"
    if contrast.claimed:
        return f"{'better' if mean > 0 else 'worse'} than {other}"
    alone = " (its p-value alone is below 0.05, after correction it is not)" if contrast.p < statistics.ALPHA else ""
    needed = contrast.seeds_needed
    if needed is None or abs(mean) < 1e-9:
        return f"not distinguishable from {other} at n = {n}"
    count = f"{needed} or more" if needed >= MOST_SEEDS else f"about {needed}"
    wish = "" if needed <= n else f"; {count} seeds would be needed"
    return f"not distinguishable from {other} at n = {n}{alone}{wish}"

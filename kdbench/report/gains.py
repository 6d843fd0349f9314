"""Gains: from the scores of one pair to what each row wins over the student alone and over the reference.

This is the only place where rows are compared and a claim is made; `statistics.py` has the tests.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import pandas as pd

from kdbench.report import statistics
from kdbench.report.statistics import Difference

STUDENT = "the student alone"
NOTHING = pd.Series(dtype=float)


@dataclass(frozen=True)
class Gain:
    """A row's mean score minus another row's. What the data can't give is NaN (see `Difference`)."""

    difference: Difference
    p_holm: float  # corrected over every test of the pair's table
    seeds_needed: int | None  # to find a difference of this size; None without a spread to judge by
    says: str  # what the corrected test says, in words

    @property
    def n(self) -> int:
        """Seeds that both rows have."""
        return self.difference.n

    @property
    def mean(self) -> float:
        return self.difference.mean

    @property
    def low(self) -> float:
        return self.difference.low

    @property
    def high(self) -> float:
        return self.difference.high

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)

    @property
    def tested(self) -> bool:
        return math.isfinite(self.p_holm)

    @property
    def claim(self) -> int:
        """1: better by the corrected test, -1: worse, 0: not distinguishable (or never tested)."""
        return int(math.copysign(1, self.mean)) if self.p_holm < statistics.ALPHA else 0


@dataclass(frozen=True)
class Gains:
    """Of every row by its label, in two comparisons. A row that is not compared there is not in the dictionary."""

    alone: dict[str, Gain] = field(default_factory=dict)  # against the student alone
    reference: dict[str, Gain] = field(default_factory=dict)  # against the row labelled as the reference


def gains_of(scores: pd.DataFrame, alone: Collection[str], reference: str) -> Gains:
    """Compare the rows of one pair.

    `scores`: one row per label, one column per seed, NaN where there is no score. `alone`: the labels whose objective
    is the student alone; they are compared with nothing. `reference`: the other row to compare with, which need not
    be there.
    """
    base = [label for label in scores.index if label in alone]
    student = scores.loc[base].bfill().iloc[0].dropna() if base else NOTHING
    other = by_seed(scores, reference)
    against: list[tuple[str, bool, Difference]] = []  # label, is the other row the reference?, difference
    for label in (str(label) for label in scores.index if label not in alone):
        ours = by_seed(scores, label)
        against.append((label, False, statistics.paired(ours, student)))
        if label != reference:
            against.append((label, True, statistics.paired(ours, other)))
    corrected = statistics.holm([difference.p for _, _, difference in against])
    gains = Gains()
    for (label, to_reference, difference), p in zip(against, corrected.tolist(), strict=True):
        needed = statistics.seeds_needed(difference.mean, difference.std)
        says = statistics.verdict(difference, p, reference if to_reference else STUDENT)
        (gains.reference if to_reference else gains.alone)[label] = Gain(difference, p, needed, says)
    return gains


def by_seed(scores: pd.DataFrame, label: str) -> "pd.Series[float]":
    """The scores of one row; empty when there is none."""
    return pd.Series(scores.loc[label], dtype=float).dropna() if label in scores.index else NOTHING

"""Gains over several pairs of nets: the mean over the pairs, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy

from kdbench.report.gains import Gain
from kdbench.report.rows import Pair
from kdbench.report.statistics import ALPHA, holm


@dataclass(frozen=True)
class MeanGain:
    """A row's gain over the student alone, the mean over `num` pairs: for these pairs and other seeds.

    `low`, `high`: 95% interval of this row alone; `p`: corrected over all rows (Holm). NaN where a pair has no
    interval, `p` also where seeds were added until decided.
    """

    num: int
    mean: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan

    @property
    def claim(self) -> int:
        """1: better than the student alone by the corrected test, -1: worse, 0: not distinguishable or not tested."""
        return int(math.copysign(1, self.mean)) if self.p < ALPHA else 0


def mean_gains(pairs: Sequence[Pair]) -> dict[str, MeanGain]:
    """Of every row that is ranked and has a gain on all pairs that have results, by its label."""
    rows = [{row.label: row.gain for row in pair.ranked if row.gain is not None} for pair in pairs if pair.done]
    common = [label for label in rows[0] if all(label in there for there in rows)] if rows else []
    found = {label: _mean([there[label] for there in rows]) for label in common}
    found = {label: gain for label, gain in found.items() if math.isfinite(gain.mean)}
    corrected = holm([gain.p for gain in found.values()]).tolist()
    if any(pair.looked for pair in pairs):  # each pair stopped when it was decided: no test over all of them holds
        corrected = [math.nan] * len(found)
    return {
        label: MeanGain(g.num, g.mean, g.low, g.high, p) for (label, g), p in zip(found.items(), corrected, strict=True)
    }


def _mean(gains: Sequence[Gain]) -> MeanGain:
    """Pairs have runs of their own, so variances add; degrees of freedom of the sum after Satterthwaite 1946."""
    num = len(gains)
    mean = sum(gain.mean for gain in gains) / num
    parts = [(gain.contrast.std**2 / gain.n, gain.contrast.df) for gain in gains if gain.has_interval]
    total = sum(variance for variance, _ in parts)
    if len(parts) < num or not total > 0:
        return MeanGain(num, mean)
    df = total**2 / sum(variance**2 / df for variance, df in parts)
    error = math.sqrt(total) / num
    half = float(scipy.stats.t.ppf(1 - ALPHA / 2, df)) * error
    return MeanGain(num, mean, mean - half, mean + half, 2 * float(scipy.stats.t.sf(abs(mean) / error, df)))

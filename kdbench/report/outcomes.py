"""From outcomes on single samples: what a score says about other samples, and whose errors a student makes.

Arrays are [seeds, samples]: whether the student of that seed got that test sample right, or the class it predicted.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from kdbench.report.statistics import ALPHA

Right = NDArray[np.bool_]
Classes = NDArray[np.integer]


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and samples and where its variance comes from; points, and points squared.

    `of_seeds`: the squared standard error on these samples, other seeds (NaN with one seed); `of_samples`: what other
    samples of the same kind add to it.
    """

    mean: float
    of_seeds: float
    of_samples: float
    num_seeds: int
    num_samples: int

    @property
    def interval(self) -> tuple[float, float]:
        """95%, for other seeds and other samples, from this difference's own seeds alone; NaN with one seed."""
        return new_samples(self.mean, self.of_seeds, self.num_seeds - 1, self)


def crossed(ours: Right, theirs: Right | None = None) -> Crossed:
    """The score of one row, or its difference to another on the same seeds and samples, all [seeds, samples].

    Outcome = mean + seed + sample + rest, both crossed and both random. With the mean squares of seeds, samples and
    rest over S seeds and N samples, the variance of the mean is MS_seeds / SN + (MS_samples - MS_rest) / SN
    (Cornfield and Tukey 1956, 10.1214/aoms/1177728067; for a bootstrap of it Owen 2007, 10.1214/07-AOAS122).
    With one seed the second term holds the rest too.
    """
    values = 100 * (ours.astype(np.float32) - (0 if theirs is None else theirs.astype(np.float32)))
    num_seeds, num_samples = values.shape
    by_seed, by_sample = values.mean(axis=1, dtype=np.float64), values.mean(axis=0, dtype=np.float64)
    mean = float(by_seed.mean())
    samples = float(by_sample.var(ddof=1)) / num_samples if num_samples > 1 else math.nan
    if num_seeds == 1:
        return Crossed(mean, math.nan, samples, num_seeds, num_samples)
    seeds = float(by_seed.var(ddof=1)) / num_seeds
    total = float(((values - mean) ** 2).sum(dtype=np.float64))
    rest = total - num_samples * ((by_seed - mean) ** 2).sum() - num_seeds * ((by_sample - mean) ** 2).sum()
    rest /= (num_seeds - 1) * (num_samples - 1) * num_seeds * num_samples
    return Crossed(mean, seeds, max(0.0, samples - float(rest)), num_seeds, num_samples)


def new_samples(
    mean: float, squared_error: float, df: float, outcomes: Crossed, level: float = ALPHA
) -> tuple[float, float]:
    """Interval for other seeds and other samples, in points.

    `squared_error` and its `df` are of the seeds' part: from the model of the whole pair (`std**2 / n` and `df` of a
    contrast), or of this difference alone. Degrees of freedom of the sum after Satterthwaite 1946.
    """
    if not (df > 0 and squared_error + outcomes.of_samples > 0):
        return math.nan, math.nan
    total = squared_error + outcomes.of_samples
    freedom = total**2 / (squared_error**2 / df + outcomes.of_samples**2 / (outcomes.num_samples - 1))
    half = float(scipy.stats.t.ppf(1 - level / 2, freedom)) * math.sqrt(total)
    return mean - half, mean + half


def agreement(ours: Classes, theirs: Classes) -> float:
    """Share of the samples on which two students (or a student and its teacher) predict one class, over all seeds."""
    return float((ours == theirs).mean())


def copied_errors(student: Classes, teacher: Classes, target: Classes) -> float:
    """Share of the teacher's errors that the student makes too, with the same wrong class; NaN if it makes none.

    `student`: [seeds, samples]; `teacher`: [samples], or [seeds, samples] where each seed has its own; `target`:
    [samples].
    """
    wrong = np.broadcast_to(teacher != target, student.shape)
    return float((student == teacher)[wrong].mean()) if wrong.any() else math.nan

"""From outcomes on single pictures: what a score says about other pictures, and whose errors a student makes.

Arrays are [seeds, pictures]: whether the student of that seed got that test picture right, or the class it predicted.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from kdbench.report.statistics import ALPHA

Right = NDArray[np.bool_]
Classes = NDArray[np.integer]


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds and pictures and where its variance comes from; points, and points squared.

    `of_seeds`: the squared standard error on these pictures, other seeds (NaN with one seed); `of_pictures`: what other
    pictures of the same kind add to it.
    """

    mean: float
    of_seeds: float
    of_pictures: float
    num_seeds: int
    num_pictures: int

    @property
    def interval(self) -> tuple[float, float]:
        """95%, for other seeds and other pictures, from this difference's own seeds alone; NaN with one seed."""
        return new_pictures(self.mean, self.of_seeds, self.num_seeds - 1, self)


def crossed(ours: Right, theirs: Right | None = None) -> Crossed:
    """The score of one row, or its difference to another on the same seeds and pictures, all [seeds, pictures].

    Outcome = mean + seed + picture + rest, both crossed and both random. With the mean squares of seeds, pictures and
    rest over S seeds and N pictures, the variance of the mean is MS_seeds / SN + (MS_pictures - MS_rest) / SN
    (Cornfield and Tukey 1956, 10.1214/aoms/1177728067; for a bootstrap of it Owen 2007, 10.1214/07-AOAS122).
    With one seed the second term holds the rest too.
    """
    values = 100 * (ours.astype(np.float32) - (0 if theirs is None else theirs.astype(np.float32)))
    num_seeds, num_pictures = values.shape
    by_seed, by_picture = values.mean(axis=1, dtype=np.float64), values.mean(axis=0, dtype=np.float64)
    mean = float(by_seed.mean())
    pictures = float(by_picture.var(ddof=1)) / num_pictures if num_pictures > 1 else math.nan
    if num_seeds == 1:
        return Crossed(mean, math.nan, pictures, num_seeds, num_pictures)
    seeds = float(by_seed.var(ddof=1)) / num_seeds
    total = float(((values - mean) ** 2).sum(dtype=np.float64))
    rest = total - num_pictures * ((by_seed - mean) ** 2).sum() - num_seeds * ((by_picture - mean) ** 2).sum()
    rest /= (num_seeds - 1) * (num_pictures - 1) * num_seeds * num_pictures
    return Crossed(mean, seeds, max(0.0, pictures - float(rest)), num_seeds, num_pictures)


def new_pictures(
    mean: float, squared_error: float, df: float, outcomes: Crossed, level: float = ALPHA
) -> tuple[float, float]:
    """Interval for other seeds and other pictures, in points.

    `squared_error` and its `df` are of the seeds' part: from the model of the whole pair (`std**2 / n` and `df` of a
    contrast), or of this difference alone. Degrees of freedom of the sum after Satterthwaite 1946.
    """
    if not (df > 0 and squared_error + outcomes.of_pictures > 0):
        return math.nan, math.nan
    total = squared_error + outcomes.of_pictures
    freedom = total**2 / (squared_error**2 / df + outcomes.of_pictures**2 / (outcomes.num_pictures - 1))
    half = float(stats.t.ppf(1 - level / 2, freedom)) * math.sqrt(total)
    return mean - half, mean + half


def agreement(ours: Classes, theirs: Classes) -> float:
    """Share of the pictures on which two students (or a student and its teacher) predict one class, over all seeds."""
    return float((ours == theirs).mean())


def copied_errors(student: Classes, teacher: Classes, target: Classes) -> float:
    """Share of the teacher's errors that the student makes too, with the same wrong class; NaN if it makes none.

    `student`: [seeds, pictures]; `teacher`: [pictures], or [seeds, pictures] where each seed has its own; `target`:
    [pictures].
    """
    wrong = np.broadcast_to(teacher != target, student.shape)
    return float((student == teacher)[wrong].mean()) if wrong.any() else math.nan

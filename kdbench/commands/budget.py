"""What a suite for a folder of pictures costs, and what of it fits a budget."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdbench.errors import UserError
from kdbench.grid.forecast import Speed, epoch_of, shared_out, teacher_epoch
from kdbench.grid.plan import Plan
from kdbench.suite.cohorts import cohorts_of
from kdbench.vision.inspect import SIZES

EPOCHS = (10, 240)  # fewer teach little, more are not proposed
SEEDS = 3


@dataclass(frozen=True)
class Price:
    """What parts of a plan take, by the run's own model of cost. `side`: at which it was measured; `count`: processes.

    `largest`: of the sizes to choose from. The plan has one seed or more; all cost alike.
    """

    plan: Plan
    speed: Speed
    side: int
    count: int
    largest: int
    epochs: dict[tuple[str, ...], list[tuple[float, int]]] = field(default_factory=dict)

    def seconds(self, rows: Sequence[str], seeds: int, epochs: int, size: int | None = None) -> float:
        """Of a run: the teacher, then a cohort for each seed. Pictures of another size cost as their area."""
        area = ((size or self.side) / self.side) ** 2
        (teacher, _), *cohorts = self.of_epochs(tuple(rows))
        pieces = [epochs * each * area + self.speed.cell * cells for each, cells in cohorts]
        return self.speed.start + epochs * teacher * area + shared_out(pieces * seeds, self.count)

    def of_epochs(self, rows: tuple[str, ...]) -> list[tuple[float, int]]:
        """Seconds of an epoch of the teachers, then of each cohort of a seed; and its cells."""
        if rows not in self.epochs:
            seed = self.plan.todo[0].seed
            cells = [cell for cell in self.plan.todo if cell.label in rows and cell.seed == seed]
            taught = {cell.teacher_key: cell for cell in cells if cell.teacher_is_trained}.values()
            teachers = sum(teacher_epoch(cell, self.plan, self.speed) for cell in taught)
            cohorts = [(epoch_of(cohort, self.plan, self.speed), len(cohort)) for cohort in cohorts_of(cells)]
            self.epochs[rows] = [(teachers, 0), *cohorts]
        return self.epochs[rows]


@dataclass(frozen=True)
class Proposal:
    """What fits."""

    size: int
    rows: list[str]
    seeds: int
    epochs: int
    seconds: float


def fit(price: Price, rows: list[str], limit: float, sizes: Sequence[int], most: int) -> Proposal:
    """Size, rows, seeds and epochs for the budget; `sizes`: those to choose from, `most`: of the epochs.

    Epochs give way first (to 30), then rows, then the size down to 96 and 64, seeds, and at last the epochs again:
    where there is time for fewer than 10, they are of the student alone and one method.
    Raises UserError when one epoch of a student alone and one method, with one seed and the smallest pictures, takes
    longer.
    """
    applies = {cell.label for cell in price.plan.todo}
    rows = [row for row in rows if row in applies]
    for least, fewest, seeds, smallest in _steps_back(len(rows), most):
        largest = len(rows) if least >= min(EPOCHS[0], most) else min(fewest, len(rows))
        for size in sorted((s for s in sizes if s >= min(smallest, max(sizes))), reverse=True):
            for count in range(largest, min(fewest, len(rows)) - 1, -1):
                once = price.seconds(rows[:count], seeds, 1, size)
                each = price.seconds(rows[:count], seeds, 2, size) - once
                epochs = min(1 + math.floor((limit - once) / max(each, 1e-9)), most)
                if epochs >= least:
                    return Proposal(size, rows[:count], seeds, epochs, once + (epochs - 1) * each)
    needed = price.seconds(rows[:2], 1, 1, min(sizes))
    raise UserError(
        f"the budget is too small: one epoch of two objectives with one seed, at size {min(sizes)}, "
        f"takes {spoken(needed)}; give a longer --budget or a smaller --teacher"
    )


def _steps_back(rows: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(least epochs, fewest rows, seeds, smallest size), the best first."""
    few = min(30, most)
    for smallest in (max(SIZES), 96, 64):
        yield few, min(3, rows), SEEDS, smallest
    for smallest in (96, 64):
        yield min(20, most), min(3, rows), 2, smallest
        yield min(EPOCHS[0], most), 2, 2, smallest
    for least in (EPOCHS[0], 5, 2, 1):
        yield min(least, most), 2, 2, 32
        yield min(least, most), 2, 1, 0


def spoken(seconds: float) -> str:
    """90 -> `90 seconds`, 5400 -> `1.5 hours`"""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"

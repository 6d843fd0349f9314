"""What a suite for a folder of pictures costs, and what of it fits a budget."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdbench.errors import UserError
from kdbench.vision.inspect import SIZES, Folder

EPOCHS = (10, 240)  # fewer teach little, more are not proposed
SEEDS = 3
SPARE = 1.1  # of the measured time: checkpoints, a busy machine
START = 12.0  # seconds before the first step and after the last: imports, proofs of the layers, tables, MLflow
CELL = 1.5  # seconds that each cell takes beside its steps: latency, its record, its file


@dataclass
class Costs:
    """Seconds, measured on this device at `batch` pictures of `side`: of one step, but `test` of one picture tested."""

    teacher_forward: float = 0.0
    teacher_step: float = 0.0
    data: float = 0.0
    test: float = 0.0
    steps: dict[tuple[str, str], float] = field(default_factory=dict)  # (student, row) -> a student's step
    inapplicable: dict[tuple[str, str], str] = field(default_factory=dict)
    batch: int = 64
    side: int = 32
    loading: float = (
        0.0  # seconds that a picture takes to come, where they aren't in memory; what was measured had them
    )
    unmeasured: set[tuple[str, str]] = field(default_factory=set)  # of `steps`: taken to be as dear as the dearest

    def seconds(self, folder: Folder, rows: Sequence[str], seeds: int, epochs: int, size: int | None = None) -> float:
        """What a suite takes: one teacher, then per student and seed one pass of the teacher for all rows.

        Pictures of another size are taken to cost as their area.
        """
        held_out = 0.1 if folder.can_hold_out else 0.0
        steps = epochs * math.ceil((1 - held_out) * folder.num_train / self.batch)
        tested = epochs * (folder.num_test + held_out * folder.num_train)
        computed, cells = steps * (self.teacher_step + self.data) + tested * self.test, 0
        loaded = float(steps * self.batch)
        for student in dict.fromkeys(name for name, _ in self.steps):
            own = [self.steps[student, row] for row in rows if (student, row) in self.steps]
            step = self.teacher_forward + self.data + sum(own)
            computed += seeds * (steps * step + len(own) * tested * self.test)
            loaded += seeds * (steps * self.batch + tested)
            cells += seeds * len(own)
        area = ((size or self.side) / self.side) ** 2
        return SPARE * (computed * area + loaded * self.loading) + START + CELL * cells


@dataclass(frozen=True)
class Proposal:
    """What fits."""

    size: int
    rows: list[str]
    seeds: int
    epochs: int
    seconds: float


def fit(costs: Costs, folder: Folder, rows: list[str], limit: float, sizes: Sequence[int], most: int) -> Proposal:
    """Size, rows, seeds and epochs for the budget; `sizes`: those to choose from, `most`: of the epochs.

    Epochs give way first (to 30), then rows, then the size down to 96 and 64, seeds, and at last the epochs again.
    Raises UserError when one epoch of a student alone and one method, with one seed and the smallest pictures, takes
    longer.
    """
    rows = [row for row in rows if any((student, row) in costs.steps for student, _ in costs.steps)]
    for least, fewest, seeds, smallest in _steps_back(len(rows), most):
        for size in sorted((s for s in sizes if s >= min(smallest, max(sizes))), reverse=True):
            for count in range(len(rows), min(fewest, len(rows)) - 1, -1):
                once = costs.seconds(folder, rows[:count], seeds, 1, size)
                each = costs.seconds(folder, rows[:count], seeds, 2, size) - once
                epochs = min(1 + math.floor((limit - once) / max(each, 1e-9)), most)
                if epochs >= least:
                    return Proposal(size, rows[:count], seeds, epochs, once + (epochs - 1) * each)
    needed = costs.seconds(folder, rows[:2], 1, 1, min(sizes))
    raise UserError(
        f"the budget is too small: one epoch of two objectives with one seed, at {min(sizes)} x {min(sizes)} pixels, "
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

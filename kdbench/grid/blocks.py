"""Seeds in blocks until the comparisons are decided: which looks are declared, and which runs the next one needs.

The statistics are `report/looks.py`; what was declared and asked for so far is in `results/looks_file.py`. The cells
of a suite are then those that the file asks for, whichever command asks, and every table is read by its looks.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count, islice
from math import ceil

from kdbench.errors import UserError
from kdbench.report.frame import Names, title
from kdbench.report.looks import Looked, Progress
from kdbench.report.table import Board
from kdbench.results.looks_file import Declared
from kdbench.suite.cells import Cell
from kdbench.suite.load import Suite
from kdbench.suite.objectives import REFERENCE

STEPS = (3, 5, 7, 10)  # looks of a suite with three seeds; another's are in proportion

Runs = Mapping[str, Mapping[str, int]]  # pair's title -> label -> how many runs


def declare(suite: Suite) -> Declared:
    """Looks and seeds, before any score is seen. The first look is at the suite's own seeds."""
    first = len(suite.seeds)
    if first < 2:
        raise UserError(f"{suite.path}: --until-decided needs 2 seeds to begin with: one tells no spread")
    looks = tuple(ceil(first * step / STEPS[0]) for step in STEPS)
    more = (seed for seed in count() if seed not in suite.seeds)
    seeds = (*suite.seeds, *islice(more, looks[-1] - first))
    return Declared(looks, seeds, tuple(suite.objectives), REFERENCE)


def check_declared(suite: Suite, declared: Declared) -> None:
    """Raises UserError where the suite's seeds are not those that the looks began with."""
    began = declared.seeds[: declared.looks[0]]
    if suite.seeds != began:
        raise UserError(
            f"{suite.path}: its looks were declared with seeds {list(began)}, which must not change once scores were "
            "seen; put them back, or give the suite another name"
        )


def changed(suite: Suite, declared: Declared | None) -> list[str]:
    """A warning where rows came or went since the looks were declared."""
    if declared is None:
        return []
    rows = dict.fromkeys([*suite.objectives, *declared.rows])
    other = [row for row in rows if (row in suite.objectives) != (row in declared.rows)]
    if not other:
        return []
    return [
        f"rows came or went after the looks at this table were declared ({', '.join(other)}): more than 5% of such "
        "tables may make a false claim"
    ]


def with_all_seeds(suite: Suite, declared: Declared) -> Suite:
    """The suite with every seed that any look may ask for."""
    own = {label: suite.row_seeds.get(label, suite.seeds) for label in suite.objectives}
    return replace(suite, row_seeds={k: tuple(dict.fromkeys([*v, *declared.seeds])) for k, v in own.items()})


def asked_cells(suite: Suite, declared: Declared, cells: list[Cell]) -> list[Cell]:
    """Of the `cells` of `with_all_seeds(suite)` those that are the suite's own or were asked for by now."""
    names = Names()
    kept = []
    for cell in cells:
        pair = title(names(cell))
        own = suite.row_seeds.get(cell.label, suite.seeds)
        if cell.seed in own or cell.seed in declared.wanted(pair, cell.label):
            kept.append(cell)
    return kept


def next_block(
    board: Board, declared: Declared, affords: Callable[[Runs], bool] = lambda runs: True
) -> Declared | None:
    """What is to be run for the next look; None where nothing is open any more that could be decided.

    `affords`: does the budget allow so many runs? The last look that it allows says what is decidable.
    """
    for most in reversed(declared.looks):
        limited = declared.allowing(most, at=seeds_of(board))
        found = {
            pair.title: Looked.at(limited, pair.looked.tried, pair.looked.references).progress
            for pair in board.pairs
            if pair.looked is not None
        }
        needed = {name: _runs_up_to(most, progress, limited) for name, progress in found.items()}
        if any(needed.values()) and affords(needed):
            return limited.asking({name: _asked(declared, name, progress) for name, progress in found.items()})
    return None


def seeds_of(board: Board) -> int:
    """That the last look had; 0 before the first."""
    return max((pair.looked.progress.seeds for pair in board.pairs if pair.looked), default=0)


def _runs_up_to(most: int, progress: Progress, declared: Declared) -> dict[str, int]:
    """Runs of each row until the look at `most` seeds, if all that is open now stays open."""
    begun = next((look for look in declared.looks if look > progress.seeds), most)
    return {label: len(seeds) + max(0, most - begun) for label, seeds in progress.missing.items()}


def _asked(declared: Declared, pair: str, progress: Progress) -> dict[str, int]:
    """How many seeds each row is to have."""
    places = {seed: number for number, seed in enumerate(declared.seeds, 1)}
    new = {label: max(places[int(str(seed))] for seed in seeds) for label, seeds in progress.missing.items()}
    return {**declared.asked.get(pair, {}), **new}


def closed(board: Board, declared: Declared) -> Declared:
    """As after the last whole look: what was asked for beyond it will not come now, and what is open is given up."""
    last = max(seeds_of(board), declared.looks[0])
    asked = {pair: {row: min(n, last) for row, n in rows.items()} for pair, rows in declared.asked.items()}
    return declared.allowing(last, at=last).asking(asked)


def in_words(board: Board) -> str:
    """`look at 5 seeds: 2 of 6 comparisons are decided, 3 given up, 1 is open`; all pairs together."""
    found = [pair.looked.progress for pair in board.pairs if pair.looked is not None]
    seeds = seeds_of(board)
    if not seeds:
        return "no look is made yet"
    decided, given_up, still = (
        sum(len(progress.among(state)) for progress in found) for state in ("decided", "not decidable", "open")
    )
    total = decided + given_up + still
    return f"look at {seeds} seeds: {decided} of {total} comparisons decided, {given_up} given up, {still} open"

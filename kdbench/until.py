"""`kdbench run SUITE --until-decided`: seeds in blocks where a comparison is still open, within a budget of time."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.console import Console

from kdbench.api import Options, Outcome, choose_device, run_suite
from kdbench.errors import UserError
from kdbench.grid.blocks import Runs, check_declared, closed, declare, in_words, next_block, seeds_of, with_all_seeds
from kdbench.grid.estimate import estimate
from kdbench.grid.executors import Executor
from kdbench.grid.plan import make_plan
from kdbench.grid.progress import clock
from kdbench.layout import Layout, SuiteFolder
from kdbench.results.looks_file import Declared, read_looks, write_looks
from kdbench.suite.cells import cells_of
from kdbench.suite.load import Suite, load_suite

Say = Callable[[str], None]
AT_ONCE = -math.inf  # a deadline before which nothing can be trained: the table alone is made


def run_until_decided(
    path: Path,
    options: Options,
    budget: float = math.inf,
    console: Console | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """`run_suite`, and again with more seeds for what the last look left open. `budget`: seconds for all of it.

    The looks are declared before the first run and kept in the results folder: whatever is broken off goes on by them.
    Raises UserError when the suite is wrong or was begun with other seeds.
    """
    deadline = time.monotonic() + budget
    if options.only is not None:
        raise UserError("--until-decided looks at whole tables: leave --only out")
    screen = console or Console(stderr=True)

    def say(line: str) -> None:
        screen.print(line, highlight=False, markup=False, soft_wrap=True)

    suite = load_suite(path, options.plugins)
    folder = Layout(options.results).suite(suite.name)
    declared, pace = _begun(suite, folder), Pace(suite, options)
    say(f"Looks are declared at {', '.join(map(str, declared.looks))} seeds ({folder.looks}).")
    while True:
        began = time.monotonic()
        outcome = run_suite(path, options, console, executor, deadline)
        pace.measured(time.monotonic() - began, outcome.trained)
        if outcome.signal is not None or outcome.board is None:
            return outcome
        say(f"{in_words(outcome.board)}.".capitalize())
        following = _following(outcome, declared, pace, deadline, say)
        if following is None:
            return outcome
        write_looks(folder, following)
        if following.asked == declared.asked or time.monotonic() > deadline:
            return run_suite(path, options, console, executor, AT_ONCE)
        declared = following


def _begun(suite: Suite, folder: SuiteFolder) -> Declared:
    """As it stands in the results folder, or declared now."""
    declared = read_looks(folder)
    if declared is None:
        declared = declare(suite)
        write_looks(folder, declared)
    check_declared(suite, declared)
    return declared


def _following(outcome: Outcome, declared: Declared, pace: "Pace", deadline: float, say: Say) -> Declared | None:
    """What comes after a run: another block, the end as the budget wants it, or None where all is said."""
    board, left = outcome.board, deadline - time.monotonic()
    assert board is not None
    if left <= 0 and outcome.counts.get("missing"):
        say("The budget is over: the table stands as at its last whole look; what was run since is kept.")
        return closed(board, declared)
    if next_block(board, declared) is None:
        say("Nothing is open any more.")
        return None
    following = next_block(board, declared, lambda runs: pace.seconds(runs) <= left)
    if following is None:
        say(f"What is still open can't be decided in the {clock(max(left, 0))} that the budget leaves: given up.")
        return closed(board, declared)
    at = min(look for look in declared.looks if look > seeds_of(board))
    say(f"Seeds are added where a comparison is open: the next look is at {at}.")
    return following


@dataclass
class Pace:
    """How long a run takes: as measured since this command began, before that as estimated."""

    suite: Suite
    options: Options
    spent: float = 0.0
    runs: int = 0

    def measured(self, seconds: float, runs: int) -> None:
        if runs:
            self.spent, self.runs = self.spent + seconds, self.runs + runs

    def seconds(self, runs: Runs) -> float:
        count = sum(sum(rows.values()) for rows in runs.values())
        return count * (self.spent / self.runs if self.runs else self.estimated)

    @cached_property
    def estimated(self) -> float:
        """Of one run, before any was measured."""
        declared = declare(self.suite)
        cells = cells_of(with_all_seeds(self.suite, declared), None, self.options.data)
        made = make_plan(cells, self.options.results, self.options.data, self.suite.plugins)
        return (
            estimate(made, choose_device(self.options.device), self.options.results) / len(made.todo)
            if made.todo
            else 0.0
        )

"""`kdbench run`: train what is not done, then print the leaderboard."""

import argparse
import math
import shlex
import sys
from contextlib import suppress

from kdbench.api import Outcome, choose_device, run_suite
from kdbench.commands.console import show_board
from kdbench.commands.given import options_of, seconds_of
from kdbench.errors import UserError, first_line
from kdbench.grid.follower import follow
from kdbench.grid.signals import stop_signals
from kdbench.grid.together import by_torchrun, joined
from kdbench.plain import several
from kdbench.train.devices import Devices
from kdbench.train.loop import Stopped
from kdbench.until import run_until_decided


def run(given: argparse.Namespace) -> int:
    if by_torchrun():
        with joined(choose_device(given.device)) as group:
            if group.rank:
                return followed(group)
            return leading(given, group)
    return first(given)


def leading(given: argparse.Namespace, group: Devices) -> int:
    """The first of those that torchrun started: however it ends, the others end too."""
    try:
        return first(given)
    except Exception as error:
        if group.busy:  # they are amidst a step, where nothing can be told
            group.leave(f"the first of the {group.size} processes raised {first_line(error)}", 1)
        raise
    finally:
        if not group.busy:  # where all agreed to stop they ended with it
            group.share(lambda: None)


def followed(group: Devices) -> int:
    """Train with the first process; it alone tells."""
    with stop_signals(lambda line: None) as stop, suppress(Stopped):
        follow(group, lambda: bool(stop))
    return 0


def first(given: argparse.Namespace) -> int:
    outcome = outcome_of(given)
    show_board(outcome.text)
    assert outcome.folder is not None
    print(f"\nWritten to {outcome.folder.leaderboard('md')} and .csv; browse the runs with: kdbench ui")
    bad = {s: n for s, n in outcome.counts.items() if n and s in ("failed", "diverged", "missing")}
    if bad:
        print("Not all is well: " + ", ".join(f"{several(n, 'cell')} {s}" for s, n in bad.items()), file=sys.stderr)
    if outcome.signal is not None:
        print(f"Stopped; go on with: kdbench {shlex.join(given.words)}", file=sys.stderr)
    return outcome.exit_code


def outcome_of(given: argparse.Namespace) -> Outcome:
    if given.until_decided:
        budget = seconds_of(given.budget) if given.budget else math.inf
        return run_until_decided(given.suite, options_of(given), budget)
    if given.budget:
        raise UserError("--budget goes with --until-decided: without it a run takes what its suite takes")
    return run_suite(given.suite, options_of(given))

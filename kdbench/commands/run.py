"""`kdbench run`: train what is not done, then print the leaderboard."""

import argparse
import math
import shlex
import sys

from kdbench.api import Outcome, run_suite
from kdbench.commands.console import show_markdown
from kdbench.commands.given import options_of, seconds_of
from kdbench.errors import UserError
from kdbench.until import run_until_decided


def run(given: argparse.Namespace) -> int:
    outcome = outcome_of(given)
    show_markdown(outcome.text)
    assert outcome.folder is not None
    print(f"\nWritten to {outcome.folder.leaderboard('md')} and .csv; browse the runs with: kdbench ui")
    bad = {s: n for s, n in outcome.counts.items() if n and s in ("failed", "diverged", "missing")}
    if bad:
        print("Not all is well: " + ", ".join(f"{n} cells {s}" for s, n in bad.items()), file=sys.stderr)
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

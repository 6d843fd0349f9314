"""`kdbench verify`: is a result what it says? Claimed, weights re-evaluated, epoch replayed."""

import argparse
import secrets
from dataclasses import replace

from kdbench.commands.given import options_of, seconds_of
from kdbench.verify.folder import judge_folder, suite_of_folder
from kdbench.verify.judge import Asked
from kdbench.verify.quiet import Quiet


def run(given: argparse.Namespace) -> int:
    draw = secrets.randbelow(10**6) if given.draw is None else given.draw
    asked = Asked(given.sample, seconds_of(given.budget), draw)
    options, suite = options_of(given), given.results_or_archive
    if suite.is_dir():
        options = replace(options, results=suite.resolve().parent)
        suite = suite_of_folder(suite)
    shown = {"published": given.compare_published, "reference": given.reference}
    verdict = judge_folder(suite, options, asked, Quiet(), **shown)
    print("\n".join([*verdict.lines(), f"The same cells and epochs are drawn again with --draw {draw}."]))
    return 0 if verdict.good else 1

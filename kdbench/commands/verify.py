"""`kdbench verify`: is a result what it says? Claimed, weights re-evaluated, epoch replayed."""

import argparse
import secrets
import tempfile
from dataclasses import replace
from pathlib import Path

from kdbench.commands.given import options_of, seconds_of
from kdbench.errors import UserError
from kdbench.verify.folder import judge_folder, note, suite_of_folder
from kdbench.verify.judge import Asked
from kdbench.verify.quiet import Quiet
from kdbench.verify.submitted import judge_archive
from kdbench.verify.verdict import Verdict


def run(given: argparse.Namespace) -> int:
    draw = secrets.randbelow(10**6) if given.draw is None else given.draw
    verdict = verdict_on(given, Asked(given.sample, seconds_of(given.budget), draw))
    print("\n".join([*verdict.lines(), f"The same cells and epochs are drawn again with --draw {draw}."]))
    return 0 if verdict.good else 1


def verdict_on(given: argparse.Namespace, asked: Asked) -> Verdict:
    options, what = options_of(given), given.results_or_archive
    if what.suffix == ".zip":
        if given.note:
            raise UserError("--note goes with a folder of results: an archive is left as it was sent")
        with tempfile.TemporaryDirectory() as folder:
            return judge_archive(what, Path(folder), options, asked, Quiet(), given.run_code)
    if given.run_code:
        raise UserError(f"--run-code goes with an archive; a suite's own code ({what}) runs whenever the suite is read")
    if what.is_dir():
        options, what = replace(options, results=what.resolve().parent), suite_of_folder(what)
    shown = {"published": given.compare_published, "reference": given.reference}
    verdict = judge_folder(what, options, asked, Quiet(), **shown)
    if given.note and verdict.good:
        note(what, options, verdict, **shown)
        verdict.said.append("noted; the tables show it")
    return verdict

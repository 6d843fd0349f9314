"""Judges a submitted archive. Its code runs only where each of its files was named.

Without it records and weights are judged, and no epoch is replayed.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kdbench.api import choose_device
from kdbench.errors import UserError, unknown
from kdbench.grid.cohort import Place, Worker
from kdbench.grid.events import Events
from kdbench.layout import Layout
from kdbench.method.register import METHODS
from kdbench.options import Options
from kdbench.registry import hash_of_code, hash_of_file
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.suite.plugins import load_methods
from kdbench.verify.archive import CODE, Submission, unpack
from kdbench.verify.folder import judge_folder
from kdbench.verify.judge import Asked, Judge
from kdbench.verify.pack import codes_of
from kdbench.verify.teachers import judge_teachers
from kdbench.verify.verdict import Verdict


def judge_archive(
    archive: Path, folder: Path, options: Options, asked: Asked, events: Events, run_code: Sequence[str] = ()
) -> Verdict:
    """`folder`: an empty one to unpack into. `run_code`: the names of its Python files, where they are to run.

    Raises UserError for what is no submission, or when not all of its code is named.
    """
    submission = unpack(archive, folder)
    if wrong := [unknown("file of code", name, submission.code) for name in run_code if name not in submission.code]:
        raise UserError("\n".join(wrong))
    unnamed = [name for name in submission.code if name not in run_code]
    options = replace(options, results=submission.results, only=None)
    if unnamed:
        verdict = without_code(submission, options, asked, events)
        verdict.said += [not_run(submission, unnamed), "its suite was not read: cells of it may be missing"]
    else:
        if submission.code:
            print(f"running {', '.join(submission.code)} of {archive} with your rights", file=sys.stderr)
        verdict = judge_folder(submission.suite_file, options, asked, events, submission.rows)
    verdict.where = str(archive)
    verdict.wrong += [*submission.wrong, *other_rows(verdict, submission)]
    for finding in verdict.findings:
        finding.wrong += [*other_code(finding.record, submission)]
    return verdict


def without_code(submission: Submission, options: Options, asked: Asked, events: Events) -> Verdict:
    """Records and weights alone: no suite is read, for that runs its plugins."""
    load_methods()
    store = Records(options.results, submission.suite)
    worker = Worker(Place(options.results, options.data, str(choose_device(options.device))), events)
    place = Layout(options.results).suite(submission.suite)
    judge = Judge(worker, {}, place.student, asked)
    findings = judge.findings(store.read_all())
    teachers = judge_teachers(judge, findings)
    judge.epochs(findings)
    return Verdict("", findings, [*store.damaged], [teachers.said])


def not_run(submission: Submission, unnamed: Sequence[str]) -> str:
    lengths = {name: (submission.folder / CODE / name).read_bytes().count(b"\n") for name in unnamed}
    files = ", ".join(f"{name} ({length} lines)" for name, length in lengths.items())
    asked = " ".join(f"--run-code {name}" for name in submission.code)
    return (
        f"its code was not run: {files}; read it, then say {asked}: it runs with your rights and can read and change "
        "your files"
    )


def other_rows(verdict: Verdict, submission: Submission) -> Iterator[str]:
    """Rows that it says it holds, and does not."""
    there = {finding.record["label"] for finding in verdict.findings}
    yield from (f"row {row} has no finished cell in it" for row in submission.rows if row not in there)


def other_code(record: Record, submission: Submission) -> Iterator[str]:
    """Was the cell made by the code in the archive? By its key and by its record, without running it."""
    texts = [(submission.folder / CODE / name).read_bytes() for name in submission.code]
    packed, alone = {hash_of_file(text) for text in texts}, {hash_of_code(text) for text in texts}
    for name, digest in codes_of(record["settings"]).items():
        if digest not in packed:
            yield f"it was made by other code of {name} than the archive holds"
    for name, digest in ((record.get("versions") or {}).get("method_files") or {}).items():
        if name in codes_of(record["settings"]) and digest not in alone:
            yield f"its record tells of other code of {name} than the archive holds"
        elif name not in METHODS and name not in codes_of(record["settings"]):
            yield f"method {name} is neither in the archive nor installed"

"""Judges finished cells: records first, then the saved students, then epochs that are trained again.

What takes long is bounded by `Asked.seconds`; what there was no time for is said.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdbench.data import DATASETS, Splits, digest_of, load_splits
from kdbench.errors import UserError, first_line
from kdbench.files import CannotWrite
from kdbench.grid.cohort import Worker
from kdbench.grid.progress import clock
from kdbench.layout import Layout
from kdbench.method.register import METHODS
from kdbench.results.numbers import NUMBERS_OF
from kdbench.results.outcomes import OUTCOMES
from kdbench.results.provenance import versions
from kdbench.results.schema import Record
from kdbench.results.seal import is_intact
from kdbench.suite.cells import Cell
from kdbench.train.loop import Stopped
from kdbench.verify.claims import contradictions, is_evaluated, is_trained
from kdbench.verify.replay import replay, states_of
from kdbench.verify.verdict import Finding
from kdbench.verify.weights import LOSS, POINTS, another_student, reevaluated

MOST_THREADS = 512
DECIDE = ("kind", "torch", "onednn", "timm")  # digits: what of `versions` must be the same here


@dataclass(frozen=True)
class Asked:
    """`sample`: of how many cells an epoch is replayed; `seconds`: that all may take; `draw`: decides which ones."""

    sample: int
    seconds: float
    draw: int


@dataclass
class Judge:
    """`cells` by key: those that may be trained again; of the others only the weights are evaluated.

    `student(key)`: where its weights would lie.
    """

    worker: Worker
    cells: Mapping[str, Cell]
    student: Callable[[str], Path]
    asked: Asked

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.random = random.Random(self.asked.draw)
        self.here = versions(self.worker.device, [])
        self.known: tuple[Any, Splits] | None = None
        teachers = Layout(self.worker.place.results).teachers
        self.teachers = {path.stem for path in teachers.path.glob("*.json")}  # that nobody trained for this verdict

    def findings(self, records: Sequence[Record]) -> list[Finding]:
        """Of every record that is done: what it says, and its student's weights. No epoch is replayed yet."""
        findings = [Finding(record, told_wrong(record)) for record in records if record["status"] == "done"]
        given = {data_of(finding.record) for finding in findings if has_outcomes(finding.record)}
        for finding in findings:
            finding.wrong += self.other_code(finding.record)
            if is_intact(finding.record) is None:
                finding.open.append("its record has no seal: nobody would notice that it was changed")
            if data_of(finding.record) in given and not has_outcomes(finding.record):
                finding.wrong.append("its outcomes were taken out: other records of its data set have theirs")
        for finding in self.drawn(findings):
            self.weights(finding)
        return findings

    def drawn(self, findings: Sequence[Finding]) -> list[Finding]:
        """In an order by lot, the same each time."""
        return random.Random(self.asked.draw).sample(findings, len(findings))

    def other_code(self, record: Record) -> list[str]:
        """Methods whose file is another one here than that which made the record."""
        files = (record.get("versions") or {}).get("method_files") or {}
        now = {name: METHODS.file_hash(name) for name in files if name in METHODS}
        return [
            f"the code of method {name} is another one here ({now[name]}) than that which made it ({said})"
            for name, said in files.items()
            if name in now and now[name] != said
        ]

    def left(self) -> float:
        """Seconds that there still are."""
        return self.asked.seconds - (time.monotonic() - self.began)

    def differs(self, record: Record) -> str:
        """In what this machine differs from the one that made the record; empty: it gives the same digits."""
        made = record.get("versions") or {}
        return ", ".join(
            f"{name} {made.get(name)} there and {self.here.get(name)} here"
            for name in DECIDE
            if made.get(name) != self.here.get(name)
        )

    def weights(self, finding: Finding) -> None:
        """Evaluate the saved student again, where there is one, and time for it."""
        record, path = finding.record, self.student(finding.record["key"])
        if not is_evaluated(record):
            finding.open.append("its scores are not its training's own (adapted): only claimed")
            return
        path = path.with_suffix(".onnx") if record.get("delivered") else path
        if not path.is_file():
            finding.open.append("its student's weights are not there")
            return
        try:
            if wrong := another_student(record, path):
                finding.wrong.append(wrong)
            elif self.left() < self.asked.seconds / 2:
                finding.open.append("its student was not evaluated again: half of the time was spent")
            else:
                self.evaluate(finding, path)
        except (Stopped, CannotWrite):
            raise
        except UserError as error:
            (finding.wrong if str(path) in str(error) else finding.open).append(str(error))
        except Exception as error:
            finding.open.append(f"its student can't be evaluated: {first_line(error)}")

    def evaluate(self, finding: Finding, path: Path) -> None:
        """Raises UserError where net or data can't be had: they may need code that is not to be run."""
        record = finding.record
        splits, differs = self.splits(record), self.differs(record)
        if differs:
            within = f"its scores are compared within {POINTS} points, NLL and ECE within {LOSS}"
            finding.open.append(f"to the last digit, made with {differs}: {within}")
        self.worker.events.now(f"evaluating {finding.title}")
        with threads_of(record):
            wrong = reevaluated(record, path, splits, self.worker.device, not differs)
        finding.wrong += wrong
        finding.reevaluated = not wrong

    def splits(self, record: Record) -> Splits:
        """The record's data; the last ones are kept. Raises UserError where they are not there, or others."""
        asked = record["settings"]["dataset"]
        name, about = dataset_of(record)
        if not self.has_data(record):
            raise UserError(f"its student was not evaluated again: the data set {name} is not there, or another one")
        if self.known is None or self.known[0] != asked:
            self.known = None
            self.known = asked, load_splits(name, about, self.worker.place.data).to(self.worker.device)
        return self.known[1]

    def has_data(self, record: Record) -> bool:
        """Are its data here, and the same?"""
        name, about = dataset_of(record)
        return digest_of(name, about, self.worker.place.data) == record["settings"].get("data", "")

    def epochs(self, findings: Sequence[Finding]) -> None:
        """Replay an epoch of as many of the cells as asked for."""
        left = self.asked.sample
        for finding in self.drawn(findings):
            if not left:
                return
            if finding.wrong:
                continue
            if why_not := self.why_not_replayed(finding.record):
                finding.open.append(why_not)
                continue
            self.epoch(finding, self.left() / left)
            left -= 1

    def why_not_replayed(self, record: Record) -> str:
        if not is_trained(record):
            return "no epoch is replayed of what is converted or adapted"
        if not states_of(record):
            return "no epoch can be replayed: its record has no digests (runs in fp32 on the CPU keep them)"
        if differs := self.differs(record):
            return f"no epoch was replayed, for digests hold on one kind of machine: made with {differs}"
        if record["key"] not in self.cells:
            return "no epoch was replayed: that runs its method's code"
        if self.left() <= 0:
            return "no epoch was replayed: the time is spent"
        if not self.has_data(record):
            return "no epoch was replayed: its data are not there, or others"
        start = self.cells[record["key"]].start
        if start is not None and not Layout(self.worker.place.results).suite(start.suite).student(start.key).is_file():
            return "no epoch was replayed: the student that it begins with is not there"
        return self.teacher_is_long(record)

    def teacher_is_long(self, record: Record) -> str:
        """In words, where the teacher is not there and to train it takes more time than there is."""
        key, seconds = str(record.get("teacher_key")), float(record.get("teacher_train_seconds") or 0)
        if seconds < self.left() or Layout(self.worker.place.results).teachers.record(key).is_file():
            return ""
        return f"no epoch was replayed: its teacher is not there, and took {clock(seconds)} to train (--budget)"

    def epoch(self, finding: Finding, seconds: float) -> None:
        """Replay one, drawn among those that `seconds` allow, and so all before it."""
        record = finding.record
        each = 1.5 * float((record.get("cost") or {}).get("seconds_per_epoch") or 1)
        finding.drawn_of = max(1, min(finding.epochs, int(seconds / each)))
        number = self.random.randint(1, finding.drawn_of)
        try:
            with threads_of(record):
                found = replay(self.cells[record["key"]], record, number, self.worker)
        except (Stopped, CannotWrite):
            raise
        except Exception as error:
            finding.wrong.append(f"its training can't be repeated: {first_line(error)}")
            return
        finding.wrong += found.wrong
        finding.replayed = 0 if found.wrong else found.epochs


def dataset_of(record: Record) -> tuple[str, dict[str, Any]]:
    """Its name and settings."""
    about = dict(record["settings"]["dataset"])
    name = about.pop("name")
    return name, (DATASETS.settings(name, about)[0] if name in DATASETS else {}) or about  # a record lacks what is off


def data_of(record: Record) -> str:
    """Equal for records of the same data."""
    return json.dumps(record["settings"].get("dataset"), sort_keys=True)


def has_outcomes(record: Record) -> bool:
    """Does it say what its student answered to each test example?"""
    return OUTCOMES in record or NUMBERS_OF in record


def told_wrong(record: Record) -> list[str]:
    """`contradictions`, also of a record whose settings and outcomes a stranger made up."""
    try:
        return contradictions(record)
    except Exception as error:
        return [f"its parts do not fit together: {first_line(error)}"]


@contextmanager
def threads_of(record: Record) -> Iterator[None]:
    """As many threads as made the record: digits hang on it. Not what no machine can start."""
    before, said = torch.get_num_threads(), (record.get("versions") or {}).get("threads") or 0
    torch.set_num_threads(said if 0 < said <= MOST_THREADS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Shows and records what cohorts tell: bar, MLflow, and the record, which alone makes a cell done."""

from dataclasses import dataclass

from kdbench.files import write_atomic
from kdbench.grid.progress import Bar
from kdbench.layout import SuiteFolder
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.mlflow_thread import Tracker
from kdbench.results.records import Records
from kdbench.results.schema import Record


@dataclass
class Recorder:
    """The `Events` of one suite, whose files lie in `folder`."""

    folder: SuiteFolder
    tracker: Tracker
    bar: Bar

    def __post_init__(self) -> None:
        self.records = Records(self.folder.results, self.folder.name)
        self.checkpoints = Checkpoints(self.folder.checkpoints)

    def now(self, what: str) -> None:
        self.bar.now(what)

    def say(self, line: str) -> None:
        self.bar.say(line)

    def advance(self, members: int, batch_size: int, piece: str = "") -> None:
        self.bar.advance(members, batch_size, piece)

    def passed(self, steps: int, piece: str) -> None:
        self.bar.passed(steps, piece)

    def epoch(self, head: Record, values: dict[str, float], number: int) -> None:
        self.tracker.epoch(head, values, number)

    def finished(self, record: Record, student: bytes | None) -> None:
        """Weights, record, MLflow; then the checkpoints may go. A reason that is known already is not noted again."""
        if record["status"] == "skipped" and self.knows(record):
            return
        if student is not None:
            write_atomic(self.folder.student(record["key"]), student)
        self.records.write(record)
        self.tracker.finish(record, self.folder.files_of(record["key"]) if record["status"] == "done" else [])
        if record["status"] in ("failed", "diverged"):
            title = f"{record['dataset']} · {record['teacher']} -> {record['student']} · {record['label']}"
            self.bar.say(f"{record['status']}: {title} · seed {record['seed']}: {record['reason']}")
        self.checkpoints.remove(record["key"])

    def knows(self, record: Record) -> bool:
        known = self.records.read(record["key"])
        return known is not None and (known["status"], known["reason"]) == (record["status"], record["reason"])

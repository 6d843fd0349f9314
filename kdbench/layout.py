"""Where everything lies in the results folder: the only place that spells its paths, and the names no suite may have.

results/
  SUITE/          records/KEY.json  answers/  students/KEY.safetensors  checkpoints/  .locks/  .suite  mlflow.jsonl
                  leaderboard.{md,csv,tex,html}  cells.{csv,parquet}  per_class.csv  plots/  looks.json  verified.json
  teachers/       KEY.json  KEY.safetensors  .KEY.lock  checkpoints/
  teacher_cache/  teacher outputs of earlier runs; safe to delete at any time
  mlflow.db, .mlflow.lock, mlartifacts/SUITE/
  .speeds.json    how fast this machine is; safe to delete
  published/      the literature's numbers, in kdbench's own checkout
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path("results")  # where commands and functions look when not told otherwise
BOARD = ("md", "csv", "tex", "html")  # a leaderboard's forms


@dataclass(frozen=True)
class SuiteFolder:
    """What one suite leaves; `path` is the suite's own folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def results(self) -> Path:
        return self.path.parent

    @property
    def records(self) -> Path:
        return self.path / "records"

    def answers(self, name: str) -> Path:
        """What many records say alike, of those that share it."""
        return self.path / "answers" / f"{name}.txt"

    def all_answers(self) -> list[Path]:
        return sorted(self.path.glob("answers/[!.]*.txt"))

    @property
    def students(self) -> Path:
        return self.path / "students"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def locks(self) -> Path:
        return self.path / ".locks"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def journal(self) -> Path:
        """Which cells MLflow shows, and where: a line for each run."""
        return self.path / "mlflow.jsonl"

    @property
    def origin(self) -> Path:
        """Says which suite file was the last to write here."""
        return self.path / ".suite"

    @property
    def looks(self) -> Path:
        """Of a run until decided: which looks were declared, and how far it came."""
        return self.path / "looks.json"

    @property
    def verified(self) -> Path:
        """What a judgement found of its cells, where that was to be noted."""
        return self.path / "verified.json"

    @property
    def per_class(self) -> Path:
        return self.path / "per_class.csv"

    def record(self, key: str) -> Path:
        return self.records / f"{key}.json"

    def student(self, key: str) -> Path:
        """The weights of a trained student."""
        return self.students / f"{key}.safetensors"

    def converted(self, key: str) -> Path:
        """A student that is delivered as a converted file."""
        return self.students / f"{key}.onnx"

    def files_of(self, key: str) -> list[Path]:
        """What there is of a student."""
        return [path for path in (self.student(key), self.converted(key)) if path.is_file()]

    def cohort_lock(self, cohort: str) -> Path:
        return self.locks / f"{cohort}.lock"

    def leaderboard(self, form: str) -> Path:
        """`form`: one of BOARD."""
        return self.path / f"leaderboard.{form}"

    def cells(self, form: str) -> Path:
        """`form`: csv or parquet."""
        return self.path / f"cells.{form}"

    def board_files(self) -> list[Path]:
        """The files of the leaderboard that there are, plots included."""
        files = [*(self.leaderboard(form) for form in BOARD), self.cells("csv"), self.per_class]
        return [path for path in files if path.is_file()] + sorted(self.plots.glob("*.*"))


@dataclass(frozen=True)
class TeacherFolder:
    """Trained teachers; all suites share them."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def record(self, key: str) -> Path:
        return self.path / f"{key}.json"

    def weights(self, key: str) -> Path:
        return self.path / f"{key}.safetensors"

    def lock(self, key: str) -> Path:
        return self.path / f".{key}.lock"

    def locks(self) -> list[Path]:
        return sorted(self.path.glob(".*.lock"))


@dataclass(frozen=True)
class Layout:
    """A results folder. It only names places: nothing is read or made here."""

    results: Path

    def suite(self, name: str) -> SuiteFolder:
        return SuiteFolder(self.results / name)

    def suites(self) -> list[SuiteFolder]:
        """The suites that have records."""
        return [SuiteFolder(path.parent) for path in sorted(self.results.glob("*/records"))]

    def cohort_locks(self) -> list[Path]:
        """Of all suites, those without records too."""
        return sorted(self.results.glob("*/.locks/*.lock"))

    def find_records(self, beginning: str) -> list[Path]:
        """The records of any suite whose key begins so."""
        return sorted(self.results.glob(f"*/records/{beginning}*.json"))

    def finished(self) -> Iterator[Path]:
        """What another machine needs too: weights before the records that speak of them, then tables."""
        suites, teachers = self.suites(), self.teachers.path
        for suite in suites:
            yield from sorted(suite.students.glob("[!.]*"))
        for form in ("safetensors", "json"):
            yield from sorted(teachers.glob(f"[!.]*.{form}"))
        for suite in suites:
            yield from suite.all_answers()
            yield from sorted(suite.records.glob("[!.]*.json"))
            yield from (path for path in (suite.looks, suite.verified, suite.origin) if path.is_file())
            yield from suite.board_files()

    @property
    def teachers(self) -> TeacherFolder:
        return TeacherFolder(self.results / "teachers")

    @property
    def teacher_cache(self) -> Path:
        return self.results / "teacher_cache"

    @property
    def speeds(self) -> Path:
        """What was measured of this machine; safe to delete."""
        return self.results / ".speeds.json"

    @property
    def published(self) -> Path:
        return self.results / "published"

    @property
    def mlflow_database(self) -> Path:
        return self.results / "mlflow.db"

    @property
    def mlflow_lock(self) -> Path:
        return self.results / ".mlflow.lock"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.results / "mlartifacts"


def suite_of_record(path: Path) -> SuiteFolder:
    """The folder of the suite that the record at `path` belongs to."""
    return SuiteFolder(path.parent.parent)


_HERE = Layout(Path())
RESERVED = frozenset(
    path.name
    for path in (
        _HERE.teachers.path,
        _HERE.teacher_cache,
        _HERE.published,
        _HERE.mlflow_database,
        _HERE.mlflow_artifacts,
        Path("answers"),  # the teacher cache of version 0.1
    )
)


def is_reserved(suite: str) -> bool:
    """Would a suite of this name share a folder with kdbench's own files? Some file systems take A for a."""
    return suite.lower() in RESERVED

"""Rows and pairs: what a board says of one objective on one pair, with types. `pairs.py` makes them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Self

from kdbench.method.metric import TOP1, Metric
from kdbench.report.gains import Gain
from kdbench.report.looks import Looked
from kdbench.report.published import Beside
from kdbench.report.standing import Standing

NOT_DONE = ("diverged", "failed", "skipped", "missing")
LOST = ("diverged", "failed")  # the cell was tried and gave no score
NAN = math.nan


class Means:
    """Numbers of a row, means over its finished cells; NaN for what no record has."""

    @classmethod
    def of(cls, means: Mapping[str, float], prefix: str = "") -> Self:
        """From the columns called `prefix` and the field's name."""
        return cls(**{f.name: means.get(prefix + f.name, NAN) for f in fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Size(Means):
    """Of a net at inference."""

    params: float = NAN
    macs: float = NAN
    cpu_ms_b1: float = NAN  # one input on one CPU thread
    gpu_ms_b1: float = NAN


@dataclass(frozen=True)
class File(Means):
    """A student as an ONNX file. Times in ONNX Runtime: on one CPU thread, `_all`: on as many as there are cores."""

    bytes: float = NAN
    ort_ms_b1: float = NAN  # of one example
    ort_ms_b1_vs_first: float = NAN  # as a multiple of that of the net before its transforms
    ort_ms_b64: float = NAN
    ort_ms_b1_all: float = NAN
    ort_ms_b64_all: float = NAN
    peak_mb_b1: float = NAN  # MiB that it adds to a process
    peak_mb_b64: float = NAN
    conversion_seconds: float = NAN


@dataclass(frozen=True)
class Cost(Means):
    """Of training."""

    step_ms: float = NAN  # one step, without the teacher
    teacher_ms: float = NAN  # the teacher's forward in it
    data_ms: float = NAN  # waiting for its batch
    alone_seconds: float = NAN  # of a run by itself, the teacher's forward included
    adapter_params: float = NAN
    peak_memory_mb: float = NAN

    @property
    def data_share(self) -> float:
        """Percent of a step, as it would be alone, that went into waiting for its batch; NaN for older records."""
        return 100 * self.data_ms / ((self.step_ms + self.teacher_ms + self.data_ms) or NAN)


@dataclass(frozen=True)
class Scores(Means):
    """Further scores on the test set, of the last epoch."""

    test_nll: float = NAN
    test_ece: float = NAN
    teacher_agreement: float = NAN
    test_corrupted_top1: float = NAN  # mean over kinds and strengths of corruption, where a suite asks for it


@dataclass(frozen=True)
class Row:
    """One objective on one pair. Means are over the `n` finished cells, and NaN when there is none."""

    dataset: str
    teacher: str
    student: str
    label: str
    metric: Metric  # what `score`, `best`, `chosen`, `validation` and `teacher_score` are
    alone: bool  # the student alone, which learns from labels only
    n: int  # finished cells with a score
    cells: int  # all of them
    not_done: dict[str, int]  # diverged, failed, skipped, missing -> cells
    reason: str  # of the first cell that gave one
    settings: str  # the objective with every setting filled in, JSON
    recipe: str  # all settings of one of its cells, JSON
    means: dict[str, float]  # of every numeric column of the frame
    score: float  # after the last epoch
    std: float  # of the score over the seeds; NaN for one seed
    best: float  # of any epoch; looks at the test set
    chosen: float  # at the epoch chosen on held-out data
    validation: float  # on held-out data, at the epoch chosen
    held_out: float  # on held-out data, of the student that is delivered: what may choose between rows
    teacher_score: float
    scores: Scores
    size: Size
    teacher_size: Size
    cost: Cost
    gain: Gain | None  # over the student alone; None for itself, and without a finished cell
    reference_gain: Gain | None  # over the row labelled as the board's reference; None for itself too
    published: Beside | None  # the literature's number; None where none was asked for
    ranked: float = NAN  # mean over the seeds that all ranked rows have; NaN for a row that is not ranked
    between_seeds: float = NAN  # percent of the test examples to which two of its seeds give one class
    copied: float = NAN  # percent of the teacher's errors that it makes too, with the same wrong class
    adapts: str = ""  # data set, teacher and student (tabs between them) of the row whose student learns these data
    begun_by: str = ""  # what its student begins with, in words, where a teacher had a part in that
    control: str = ""  # what stands in its teacher's place, one of CONTROLS; "" for the teacher itself
    file: File = field(default_factory=File)
    before: File = field(default_factory=File)  # of the net before its transforms
    checked: str = ""  # what `kdbench verify` found: `weights 5/5, epoch 1/5`; "" where nothing was noted
    tier: int | None = None  # 0: tied for the top; 1: for the top of the others, and so on; None: not ranked

    @property
    def names(self) -> str:
        return "\t".join((self.dataset, self.teacher, self.student))

    @property
    def lost(self) -> int:
        """Seeds that it was tried on and has no score of: what is left is not a fair sample."""
        return sum(self.not_done.get(status, 0) for status in LOST)

    @property
    def latency(self) -> float:
        """Milliseconds of one example on one CPU thread: of its file, where that was measured, else in torch."""
        return self.file.ort_ms_b1 if math.isfinite(self.file.ort_ms_b1) else self.size.cpu_ms_b1

    @property
    def is_ranked(self) -> bool:
        return math.isfinite(self.ranked)

    @property
    def gained(self) -> float:
        """Mean gain over the student alone; NaN where there is none."""
        return self.gain.mean if self.gain else NAN

    @property
    def claim(self) -> int:
        """Against the student alone: 1 better, -1 worse, 0 not distinguishable (or never tested)."""
        return self.gain.claim if self.gain else 0


@dataclass(frozen=True)
class Pair:
    """What is compared with each other: the rows of one data set, teacher and student."""

    title: str
    rows: list[Row]
    standing: Standing = field(default_factory=Standing)
    num_teachers: int = 1  # more than one where each seed has its own
    looked: Looked | None = None  # where seeds were added until decided

    @property
    def metric(self) -> Metric:
        return self.rows[0].metric if self.rows else TOP1

    @property
    def ranked(self) -> list[Row]:
        """Rows that may be the best, the best mean first."""
        return sorted((row for row in self.rows if row.is_ranked), key=lambda row: -row.ranked)

    @property
    def tied(self) -> list[Row]:
        """Rows that can't be told apart from the best, the best mean first; empty where nothing can be told."""
        return [row for row in self.ranked if row.tier == 0]

    @property
    def done(self) -> list[Row]:
        """Rows with a finished cell."""
        return [row for row in self.rows if row.n]

    @property
    def taught(self) -> Row | None:
        """A row with a finished cell that knows the pair's own teacher, not a control."""
        return next((row for row in self.done if not row.control), None)

    @property
    def alone(self) -> Row | None:
        """The student alone, when it has a finished cell."""
        return next((row for row in self.rows if row.alone and row.n), None)

    def cost_ratio(self, row: Row, name: str) -> float:
        """A cost of `row` as a multiple of the student alone's; NaN where that is not known."""
        base = getattr(self.alone.cost, name) if self.alone else NAN
        return float(getattr(row.cost, name) / (base or NAN))

"""Rows: what a board says of one objective on one pair, with types."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import pandas as pd

from kdbench.method.metric import Metric
from kdbench.report.frame import GROUP, title
from kdbench.report.gains import Gain, by_seed, gains_of
from kdbench.report.published import Beside, beside

NOT_DONE = ("diverged", "failed", "skipped", "missing")
MEANS = ("test_", "validation_", "teacher_", "student_", "cost_")  # columns of the frame that are averaged
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
class Cost(Means):
    """Of training."""

    step_ms: float = NAN  # one step, without the teacher
    alone_seconds: float = NAN  # of a run by itself, the teacher's forward included
    adapter_params: float = NAN
    peak_memory_mb: float = NAN


@dataclass(frozen=True)
class Scores(Means):
    """Further scores on the test set, of the last epoch."""

    test_nll: float = NAN
    test_ece: float = NAN
    teacher_agreement: float = NAN


@dataclass(frozen=True)
class Row:
    """One objective on one pair. Means are over the `n` finished cells, and NaN when there is none."""

    dataset: str
    teacher: str
    student: str
    label: str
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
    teacher_score: float
    scores: Scores
    size: Size
    teacher_size: Size
    cost: Cost
    gain: Gain | None  # over the student alone; None for itself, and without a finished cell
    reference_gain: Gain | None  # over the row labelled as the board's reference; None for itself too
    published: Beside | None  # the literature's number; None where none was asked for

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

    @property
    def done(self) -> list[Row]:
        """Rows with a finished cell."""
        return [row for row in self.rows if row.n]

    @property
    def alone(self) -> Row | None:
        """The student alone, when it has a finished cell."""
        return next((row for row in self.rows if row.alone and row.n), None)

    def cost_ratio(self, row: Row, name: str) -> float:
        """A cost of `row` as a multiple of the student alone's; NaN where that is not known."""
        base = getattr(self.alone.cost, name) if self.alone else NAN
        return float(getattr(row.cost, name) / (base or NAN))


Identities = Mapping[tuple[str, ...], Mapping[str, Any]]  # (data set, teacher, student, label) -> a cell's identity


def pairs_of(frame: pd.DataFrame, reference: str, metric: Metric, identities: Identities | None = None) -> list[Pair]:
    """The comparisons of a frame, with one row per label in order of appearance; only cells that are done count.

    `identities`: asks for the literature's number beside each row.
    """
    groups: Any = frame.groupby(GROUP, sort=False) if len(frame) else []
    return [Pair(title(group), list(_rows_of(part, reference, metric, identities))) for group, part in groups]


def scores_of(done: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Scores of one pair's finished cells: one row per label, one column per seed, both in order of appearance."""
    if metric.test not in done or not len(done):
        return pd.DataFrame()
    wide = done.pivot_table(index="label", columns="seed", values=metric.test, aggfunc="first").astype(float)
    return wide.reindex(index=done["label"].unique(), columns=done["seed"].unique())


def _rows_of(part: pd.DataFrame, reference: str, metric: Metric, identities: Identities | None) -> Iterator[Row]:
    done = part[part["status"] == "done"]
    scores = scores_of(done, metric)
    alone = set(part.loc[part["alone"].astype(bool), "label"])
    gains = gains_of(scores, alone, reference)
    means = _means_of(done)
    for label, cells in _by_label(part).items():
        ours = by_seed(scores, str(label))
        mean = means.get(label, {})
        score, best = mean.get(metric.test, NAN), mean.get(metric.best, NAN)
        dataset, teacher, student = (str(cells[name][0]) for name in GROUP)
        place = dataset, teacher, student, str(label)
        yield Row(
            dataset=dataset,
            teacher=teacher,
            student=student,
            label=str(label),
            alone=label in alone,
            n=len(ours),
            cells=len(cells["label"]),
            not_done={status: cells["status"].count(status) for status in NOT_DONE},
            reason=_first_text(cells, "reason"),
            settings=_first_text(cells, "objective"),
            recipe=_first_text(cells, "recipe"),
            means=mean,
            score=score,
            std=ours.std(ddof=1) if len(ours) > 1 else NAN,
            best=best,
            chosen=mean.get(metric.chosen, NAN),
            validation=mean.get(metric.validation, NAN),
            teacher_score=mean.get(metric.teacher, NAN),
            scores=Scores.of(mean),
            size=Size.of(mean, "student_"),
            teacher_size=Size.of(mean, "teacher_"),
            cost=Cost.of(mean, "cost_"),
            gain=gains.alone.get(str(label)),
            reference_gain=gains.reference.get(str(label)),
            published=None
            if identities is None
            else beside(identities[place], score, best, mean.get(metric.teacher, NAN)),
        )


def _means_of(done: pd.DataFrame) -> dict[Any, dict[str, float]]:
    """label -> column -> mean over the seeds, of every numeric column."""
    if not len(done):
        return {}
    numbers = [name for name in done.columns if str(name).startswith(MEANS)]
    means = done.groupby("label", sort=False)[numbers].mean(numeric_only=True)
    return {label: {str(k): float(v) for k, v in row.items()} for label, row in means.to_dict("index").items()}


def _by_label(part: pd.DataFrame) -> dict[Any, dict[str, list[Any]]]:
    """label -> column -> its cells' values; of ten thousand rows, a frame for each would take half a minute."""
    names = [name for name in ("label", "status", *GROUP, "reason", "objective", "recipe") if name in part]
    found: dict[Any, dict[str, list[Any]]] = {}
    for values in part[names].itertuples(index=False, name=None):
        cells = found.setdefault(values[0], {name: [] for name in names})
        for name, value in zip(names, values, strict=True):
            cells[name].append(value)
    return found


def _first_text(cells: Mapping[str, list[Any]], column: str) -> str:
    return next((text for text in cells.get(column, []) if isinstance(text, str) and text), "")

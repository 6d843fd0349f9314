"""What the score of a task is: how records spell it, and how tables say it. Higher is better."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Literal

import scipy
from torch import Tensor, float64, from_numpy, tensor

from kdbench.errors import UserError, unknown
from kdbench.method.kinds import CLASSES
from kdbench.registry import foreign_code


@dataclass(frozen=True)
class Metric:
    """One score of a student on the test set, after the last epoch."""

    name: str  # as records spell it: `test_<name>`, `validation_<name>`, `teacher_<name>`
    title: str  # as a table's head and a sentence say it
    words: str  # what it is, for the legend
    unit: str = ""
    of: Callable[[Tensor, Tensor], float] | None = None  # (predicted [N], targets [N]) -> score; None: always computed
    reads: Literal["numbers", "values"] = "numbers"  # what `of` is given: classes' numbers, or what their names say
    two: bool = False  # is it of the second class of two?

    @property
    def test(self) -> str:
        """The key of the score itself, and of its curve over the epochs."""
        return f"test_{self.name}"

    @property
    def best(self) -> str:
        return f"test_{self.name}_best"

    @property
    def chosen(self) -> str:
        return f"test_{self.name}_chosen"

    @property
    def validation(self) -> str:
        return f"validation_{self.name}"

    @property
    def delivered(self) -> str:
        """On held-out data, of the student that is delivered: after the last epoch, or of its file."""
        return f"validation_{self.name}_delivered"

    @property
    def teacher(self) -> str:
        return f"teacher_{self.name}"

    @property
    def head(self) -> str:
        """`top-1 %`: the head of a column."""
        return f"{self.title} {self.unit}".rstrip()

    def says(self, record: Mapping[str, Any]) -> str:
        """`87.20% top-1`: the score of a record that is done."""
        return f"{record['scores'][self.test]:.2f}{self.unit} {self.title}"

    @property
    def axis(self) -> str:
        """`test top-1, %`: beside an axis."""
        return f"test {self.title}" + (f", {self.unit}" if self.unit else "")


def macro_f1(predicted: Tensor, targets: Tensor) -> float:
    """Mean over the classes of the harmonic mean of precision and recall, in percent."""
    from sklearn.metrics import f1_score

    return 100 * float(f1_score(targets.cpu().numpy(), predicted.cpu().numpy(), average="macro", zero_division=0))


def binary_f1(predicted: Tensor, targets: Tensor) -> float:
    """The harmonic mean of precision and recall of class 1, in percent."""
    from sklearn.metrics import f1_score

    hits = targets.cpu().numpy() == 1, predicted.cpu().numpy() == 1
    return 100 * float(f1_score(*hits, zero_division=0))


def matthews(predicted: Tensor, targets: Tensor) -> float:
    """Matthews' correlation of predicted and true classes times 100: 0 is guessing (Gorodkin 2004 for several)."""
    from sklearn.metrics import matthews_corrcoef

    return 100 * float(matthews_corrcoef(targets.cpu().numpy(), predicted.cpu().numpy()))


def pearson(predicted: Tensor, targets: Tensor) -> float:
    """Pearson's correlation of predicted and true ratings [N] times 100; 0 where all are one."""
    a, b = (x.cpu().double() - x.cpu().double().mean() for x in (predicted, targets))
    scale = float(a.norm() * b.norm())
    return 100 * float(a @ b) / scale if scale else 0.0


def spearman(predicted: Tensor, targets: Tensor) -> float:
    """The same of their ranks: equal ones share the mean of their places."""
    return pearson(*(from_numpy(scipy.stats.rankdata(x.cpu().numpy())) for x in (predicted, targets)))


def r2(predicted: Tensor, targets: Tensor) -> float:
    """The share of the variance of true ratings [N] that the predicted ones explain, times 100.

    The mean for all is worth 0, and what is worse less; 0 where all true ones are one.
    """
    a, b = (x.cpu().double() for x in (predicted, targets))
    whole = float((b - b.mean()).square().sum())
    return 100 * (1 - float((a - b).square().sum()) / whole) if whole else 0.0


class Metrics(dict[str, Metric]):
    """By name. `code`: of each that was put in later a hash of its code as it was then, as a registry has it."""

    def __init__(self, ours: Iterable[Metric]) -> None:
        super().__init__((metric.name, metric) for metric in ours)
        self.code: dict[str, str] = {}

    def __setitem__(self, name: str, metric: Metric) -> None:
        super().__setitem__(name, metric)
        function: Any = metric.of.func if isinstance(metric.of, partial) else metric.of
        self.code[name] = "" if function is None else foreign_code(function)


TOP1 = Metric("top1", "top-1", "accuracy", "%")
METRICS = Metrics(
    (
        TOP1,
        Metric("macro_f1", "macro F1", "the mean of the classes' F1", "%", macro_f1),
        Metric("f1", "F1", "F1 of the second of two classes", "%", binary_f1, two=True),
        Metric("pearson", "Pearson", "Pearson's correlation of ratings times 100", "", pearson, "values"),
        Metric("spearman", "Spearman", "Spearman's correlation of ratings times 100", "", spearman, "values"),
        Metric("r2", "R2", "explained variance of ratings times 100", "", r2, "values"),
        Metric("matthews", "Matthews", "Matthews' correlation times 100", "", matthews),
    )
)
OF_NUMBERS = ("pearson", "spearman", "r2")  # always computed where nets learn numbers
MIXED = Metric("score", "score", "each data set's own score")  # of a table whose data sets are judged differently


def metric_named(name: str) -> Metric:
    """Raises UserError for one that there is not; a plugin may put its own into METRICS."""
    if name not in METRICS:
        raise UserError(unknown("metric", name, METRICS))
    return METRICS[name]


def metric_for(name: str, classes: Sequence[str], num_classes: int, kind: str = CLASSES.name) -> Metric:
    """That of a task. Raises UserError where its targets are not what the metric is of.

    Classes without names are taken to be rated as they are numbered.
    """
    metric = metric_named(name)
    if kind != CLASSES.name:
        if metric.reads != "values":
            known = ", ".join(sorted(one.name for one in METRICS.values() if one.reads == "values"))
            raise UserError(f"metric {name} is of classes; these data have {kind}, and of these there are: {known}")
        return replace(metric, words=metric.words.replace("ratings", kind))
    if metric.two:
        if num_classes != 2:
            raise UserError(
                f"metric {name} is of one class of two; here are {num_classes}: macro_f1 is the mean of all"
            )
        return replace(metric, words=f"{metric.title} of class {classes[1]!r}") if classes else metric
    if metric.reads == "numbers" or metric.of is None:
        return metric
    if wrong := [label for label in classes if rating(label) is None]:
        raise UserError(f"metric {name} is of classes that are numbers (ratings); {wrong[0]!r} is none")
    values = [float(label) for label in classes] or [float(number) for number in range(num_classes)]
    return replace(metric, of=partial(of_values, metric.of, tensor(values, dtype=float64)))


def of_values(of: Callable[[Tensor, Tensor], float], values: Tensor, predicted: Tensor, targets: Tensor) -> float:
    """`of` what the classes are worth, `values` [K], in the place of their numbers [N]."""
    return of(values[predicted.cpu()], values[targets.cpu()])


def rating(label: str) -> Decimal | None:
    """The finite number that a class's name says; None where it says none."""
    try:
        found = Decimal(label)
    except InvalidOperation:
        return None
    return found if found.is_finite() else None


def metric_of(record: Mapping[str, Any]) -> Metric:
    """That of a record; of one that is not known here, or of other classes than it is of, it is the bare name."""
    name, kind = str(record.get("metric") or TOP1.name), str(record.get("kind") or CLASSES.name)
    try:
        return metric_for(name, record.get("classes") or (), record.get("num_classes") or 2, kind)
    except UserError:
        return METRICS.get(name) or Metric(name, name, name)

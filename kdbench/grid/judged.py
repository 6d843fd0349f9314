"""What a record tells of a student example by example and class by class, beside its scores."""

from typing import Any

from torch import Tensor

from kdbench.data import Splits
from kdbench.method.kinds import NUMBERS
from kdbench.results.numbers import NUMBERS_OF, Numbers, packed_numbers
from kdbench.results.outcomes import OUTCOMES, Outcomes, packed
from kdbench.train.evaluation import Judged

MOST_CLASSES = 1000  # of more, a record does not tell the single ones


def told(judged: Judged, splits: Splits, known: Tensor | None) -> dict[str, Any]:
    """`known`: the teacher's predictions on the test set [N]."""
    task = splits.task
    details: dict[str, Any] = {}
    parts = [] if known is None else [x.cpu().numpy() for x in (judged.predicted, known, splits.test.targets)]
    if splits.kind is NUMBERS:
        return {NUMBERS_OF: packed_numbers(Numbers(*parts))} if parts else {}
    if parts:
        details[OUTCOMES] = packed(Outcomes(*parts), task.num_classes)
    if task.num_classes <= MOST_CLASSES:
        details["test_top1_per_class"] = judged.per_class(splits.test.targets, task.num_classes)
        details |= {"classes": list(task.classes)} if task.classes else {}
    return details

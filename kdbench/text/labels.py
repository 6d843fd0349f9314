"""Does a net that was trained elsewhere mean the same by class 0 as the data set does?

The known trap of MNLI: public checkpoints put `entailment` first, second or last, and many do not say. A head with the
right classes in another order scores far below chance, and a student learns that.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from kdbench.errors import UserError
from kdbench.method.contract import Task
from kdbench.method.kinds import NUMBERS

UNNAMED = re.compile(r"LABEL_\d+")  # what transformers calls a class that has no name
Labels = tuple[str, ...] | Literal["new"] | None


def head_rows(config: Any, classes: Sequence[str], weights: str, labels: Labels = None) -> list[int] | None:
    """Which row of its head speaks for each of the data set's classes; None where the head is to be made anew.

    Made anew is what is no head of a classifier, and one of another number of classes. Any other must name the data
    set's classes in their order, or `labels` its own in its order (then rows are put in the data set's), or `new`.
    Raises UserError where it is not known which row is which.
    """
    if labels == "new" or not is_classifier(config):
        return None
    own = [str(config.id2label[place]) for place in sorted(config.id2label)]
    if labels is not None:
        return _placed([plain(name) for name in labels], len(own), [plain(name) for name in classes], weights)
    if len(own) != len(classes):
        return None
    if numbered(own) and numbered(classes):
        return list(range(len(own)))
    found, wanted = [plain(name) for name in own], [plain(name) for name in classes]
    if found == wanted and not any(map(UNNAMED.fullmatch, own)):
        return list(range(len(own)))
    raise UserError(_untold(own, wanted, weights))


def number_row(config: Any, task: Task, kind: str, labels: Labels = None) -> list[int] | None:
    """The same of a task of numbers: a head of one output is taken as it is; None where it is to be made anew.

    Raises UserError for `labels` that name some.
    """
    if task.kind != NUMBERS.name:  # classes without names
        return None
    if isinstance(labels, tuple):
        raise UserError(f"{kind}: these data have numbers, which have no `labels`; `labels: new` makes a new head")
    return [0] if labels is None and is_classifier(config) and len(config.id2label) == 1 else None


def is_classifier(config: Any) -> bool:
    """Has it learnt to tell classes, by what its configuration says it is?"""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def numbered(names: Sequence[str]) -> bool:
    """Are they 0, 1, 2, ... or LABEL_0, LABEL_1, ... in this order?"""
    return any(list(names) == [f"{word}{k}" for k in range(len(names))] for word in ("", "LABEL_"))


def _placed(own: list[str], count: int, wanted: list[str], weights: str) -> list[int]:
    if len(own) != count or sorted(own) != sorted(wanted):
        raise UserError(
            f"{weights}: its head has {count} classes, the data set {', '.join(wanted)}; `labels` must name each of "
            f"these once, in the order of the head, and says {', '.join(own)}"
        )
    return [own.index(name) for name in wanted]


def _untold(own: list[str], wanted: list[str], weights: str) -> str:
    if any(map(UNNAMED.fullmatch, own)):
        what = f"{weights} was trained for {len(own)} classes and does not say which is which"
    elif sorted(map(plain, own)) == sorted(wanted):
        what = f"{weights} was trained for the classes {', '.join(map(plain, own))} in this order"
    else:
        what = f"{weights} was trained for the classes {', '.join(own)}"
    return (
        f"{what}; the data set's are {', '.join(wanted)}: say the data set's in the order of the net's head, "
        "`labels: [...]`, or `labels: new` for a new head"
    )


def plain(name: object) -> str:
    return re.sub(r"[\s_-]+", " ", str(name)).strip().casefold()

"""What the targets of a task are, classes or numbers: all that follows from it is asked of a `Kind`, or of `fits`.

Shapes: N examples, B in a batch, K outputs of a net (of numbers 1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from kdbench.method.contract import VIEWS, Inapplicable, Method, Task

LABELS = "labels"  # the family of methods that learn from labels alone, each example by itself
OF_CLASSES = {"logits", "token_logits", "classifier", *VIEWS}  # what of a net is of its own classes


@dataclass(frozen=True)
class Kind:
    """What targets are, for whoever reads them without a method."""

    name: str
    answers: Callable[[Tensor], Tensor]  # a net's outputs [B, K] -> what it says of each example [B]
    lacks: Callable[[Tensor], Tensor]  # targets [N] -> which examples have none [N], bool
    stand_ins: Callable[[Tensor, int], Tensor]  # (places [N], K) -> targets where only their type is asked for


CLASSES = Kind("classes", lambda x: x.argmax(1), lambda targets: targets < 0, lambda places, count: places % count)
NUMBERS = Kind("numbers", lambda x: x.float()[:, 0], torch.isnan, lambda places, _: places / max(len(places), 1))
KINDS = {kind.name: kind for kind in (CLASSES, NUMBERS)}


def kind_of(targets: Tensor) -> Kind:
    """Numbers are float, classes int64."""
    return NUMBERS if targets.dtype.is_floating_point else CLASSES


def knows(method: type[Method], task: Task) -> bool:
    """Has the method said that it is for such targets? Every one is for classes that does not say otherwise."""
    return task.kind in (method.kinds or (CLASSES.name,))


def fits(method: Method, task: Task, standardise: str = "none") -> None:
    """Raises Inapplicable where a method has no meaning for the task's targets.

    One that says nothing of its `kinds` takes logits and labels for classes. If it needs neither it is for numbers too:
    embeddings, features, relations, attention are of the examples, whatever is learnt of them.
    """
    if method.kinds and task.kind not in method.kinds:
        raise Inapplicable(f"needs targets that are {' or '.join(method.kinds)}; these data have {task.kind}")
    if task.kind == CLASSES.name:
        return
    if standardise != "none":
        raise Inapplicable("can't be standardised: that needs logits of classes; these data have numbers")
    if method.kinds:
        return
    read = [need for need in (*method.needs, *method.student_needs) if need in {*OF_CLASSES, "peer"}]
    if read or method.family == LABELS:
        what = LABELS if not read else "logits" if read[0] in (*VIEWS, "peer") else read[0]
        raise Inapplicable(f"needs {what} of classes; these data have numbers")


class Unclassed(Task):
    """A task of numbers for a method that says nothing of its `kinds`: to count classes raises Inapplicable."""

    def __getattribute__(self, name: str) -> Any:
        if name == "num_classes":
            raise Inapplicable("needs classes to count; these data have numbers")
        return super().__getattribute__(name)


def seen_by(method: type[Method], task: Task) -> Task:
    """The task as the method may see it."""
    if knows(method, task):
        return task
    return Unclassed(**{field.name: getattr(task, field.name) for field in fields(task)})


def targets_of(task: Task, places: Tensor) -> Tensor:
    """Targets [N] of examples at `places` [N], in the place of those that may not be there."""
    return KINDS[task.kind].stand_ins(places, task.num_classes)


def needs_classes(task: Task, asked: Sequence[str]) -> None:
    """Raises Inapplicable where something is `asked` of a task of numbers that is told of classes alone."""
    if task.kind != CLASSES.name and asked:
        raise Inapplicable(f"{asked[0]} needs classes; these data have {task.kind}")

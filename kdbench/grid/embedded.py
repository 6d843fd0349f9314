"""What finished students' embeddings are worth: a probe in the place of their heads, the votes of neighbours.

One pass of the data serves all students of a cohort whose embeddings fit into memory together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor, nn

from kdbench.data import Split
from kdbench.train.lent import Guard
from kdbench.train.loop import Cohort
from kdbench.train.probe import embeddings, fit_linear, give_head, neighbours_of
from kdbench.train.student import Delivered

OF_FREE_MEMORY = 0.25


@dataclass
class Embedded:
    """`neighbours`: by key, where that was asked; `broken`: what a student raised."""

    neighbours: dict[str, dict[str, float]] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)


def judge_embeddings(students: dict[str, Delivered], cohort: Cohort) -> Embedded:
    """Give the students the classifiers by which they are judged, and ask their neighbours, as the cohort says."""
    found, splits, precision = Embedded(), cohort.splits, cohort.batches.precision
    for keys in groups(students, splits.train):
        nets = [students[key] for key in keys]
        known = embeddings(nets, splits.train, precision)
        seen = embeddings(nets, splits.test, precision) if cohort.neighbours else known
        for key, of_train, of_test in zip(keys, known, seen, strict=True):
            try:
                with Guard():
                    own = told(of_train), told(of_test)
                    if cohort.at_end:
                        probe = fit_linear(own[0], splits.train.targets.cpu(), splits.num_classes)
                        give_head(students[key].net, probe.to(splits.train.targets.device))
                    if cohort.neighbours:
                        found.neighbours[key] = neighbours_of(*own, splits, cohort.neighbours)
            except Exception as error:
                found.broken[key] = error
    return found


def told(found: Tensor | Exception) -> Tensor:
    """Raises what a net raised."""
    if isinstance(found, Exception):
        raise found
    return found


def groups(students: dict[str, Delivered], split: Split) -> Iterator[Sequence[str]]:
    """Keys of students whose embeddings of the split fit into memory at a time; one at least."""
    room, group, needed = OF_FREE_MEMORY * psutil.virtual_memory().available, list[str](), 0.0
    for key, student in students.items():
        own = 4.0 * len(split) * width(student)
        if group and needed + own > room:
            yield group
            group, needed = [], 0.0
        group.append(key)
        needed += own
    if group:
        yield group


def width(student: nn.Module) -> int:
    """How many numbers an embedding has, by its classifier; 0 where it has none."""
    head = student.net.head  # type: ignore[union-attr]
    weight = getattr(head[0], "weight", None) if len(head) else None  # type: ignore[arg-type,index]
    return int(weight.shape[1]) if isinstance(weight, torch.Tensor) else 0

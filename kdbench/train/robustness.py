"""How a finished student stands test examples that are made worse, in the ways that its data set states."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from kdbench.data import DATASETS
from kdbench.train.evaluation import evaluate_one


def robustness(student: nn.Module, dataset: str, test: Any, precision: str) -> dict[str, float]:
    """`corrupted_KIND_top1`, the mean over its strengths, and `test_corrupted_top1`, that over the kinds; percent."""
    found: dict[str, list[float]] = {}
    versions: Iterator[tuple[str, Any]] = DATASETS[dataset].corrupted(test)
    for kind, split in versions:
        found.setdefault(kind, []).append(evaluate_one(student, split, precision).scores["top1"])
    means = {f"corrupted_{kind}_top1": sum(values) / len(values) for kind, values in found.items()}
    return {**means, "test_corrupted_top1": sum(means.values()) / len(means)}

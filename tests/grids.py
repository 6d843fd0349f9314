"""Records of a made-up grid, for tests of what is computed from records."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdbench.results.schema import Record
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite

ROWS: dict[str, Any] = {
    "student": {"ce": 1},
    "kd": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "rkd": {"ce": 1, "rkd": 1},
    "sp": {"ce": 1, "sp": 3000},
}
STUDENTS = ["cifar_resnet8", "cifar_resnet14", "cifar_resnet20", "cifar_resnet32"]
PAIRS = [{"teacher": "cifar_resnet56", "student": name} for name in STUDENTS]


def grid(
    folder: Path, rows: list[str] | None = None, pairs: int | list[Any] = 1, seeds: int = 3, **changes: Any
) -> tuple[Path, list[Cell]]:
    """A suite file and its cells."""
    suite = {
        "name": "grid",
        "datasets": ["digits"],
        "pairs": pairs if isinstance(pairs, list) else PAIRS[:pairs],
        "methods": {label: ROWS[label] for label in rows or ROWS},
        "seeds": list(range(seeds)),
        "train": {"epochs": 3, "batch_size": 64},
        **changes,
    }
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    return path, cells_of(load_suite(path))


def record(cell: Cell, top1: float, **changes: Any) -> Record:
    """What a finished cell leaves, with made-up numbers."""
    scores = {"test_top1": top1, "test_top1_best": top1 + 0.5, "test_top1_chosen": None, "test_nll": 1.0,
              "test_ece": 0.1, "teacher_agreement": 80.0, "teacher_top1": 90.0}  # fmt: skip
    size = {"params": 1e5, "macs": 1e7, "cpu_ms_b1": 1.0}
    made: Record = {
        "key": cell.key, "suite": cell.suite, "dataset": cell.dataset.name, "teacher": cell.teacher.short,
        "student": cell.student.short, "label": cell.label, "seed": cell.seed, "settings": cell.identity,
        "status": "done", "reason": "", "scores": scores,
        "profile": {"student": size, "teacher": {"params": 1e6, "macs": 1e8, "cpu_ms_b1": 5.0}},
        "cost": {"step_ms": 10.0, "alone_seconds": 100.0, "adapter_params": 0, "peak_memory_mb": 500.0},
        "curves": {"test_top1": [max(0.0, top1 - 20), max(0.0, top1 - 5), top1]},
        "versions": {"commit": "abc", "kdbench": "1", "torch": "2", "timm": "1", "device": "cpu"},
        "finished": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    return {**made, **changes}


def drawn(cells: list[Cell], gains: dict[str, float], spread: float = 0.2) -> list[Record]:
    """A record for every cell: 70% and the row's gain, a share that the seed decides, and noise."""
    draw = np.random.default_rng(0)
    shared = {cell.seed: draw.normal(0, 1) for cell in cells}
    top1 = [70 + gains.get(c.label, 0.0) + shared[c.seed] + draw.normal(0, spread) for c in cells]
    return [record(cell, float(score)) for cell, score in zip(cells, top1, strict=True)]

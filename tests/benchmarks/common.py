"""What the benchmarks share: pictures, members made of the engine's own parts, medians, a line of JSON and a table."""

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from kdbench.data import Splits, load_splits
from kdbench.nets import Net, build_net
from kdbench.suite.load import ModelSpec, Train, objective
from kdbench.train.objective import built_objective
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial
from kdbench.vision.batches import Images

# The nine of the grid, with the CRD benchmark's weights (Tian et al. 2020, https://arxiv.org/abs/1910.10699).
NINE: dict[str, dict[str, Any]] = {
    "ce": {"ce": 1},
    "kd": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}},
    "fitnet": {"ce": 1, "fitnet": 100},
    "at": {"ce": 1, "at": 1000},
    "sp": {"ce": 1, "sp": 3000},
    "cc": {"ce": 1, "cc": 0.02},
    "vid": {"ce": 1, "vid": 1},
    "rkd": {"ce": 1, "rkd": 1},
    "pkt": {"ce": 1, "pkt": 30000},
}
MORE: dict[str, dict[str, Any]] = {
    "dkd": {"ce": 1, "dkd": {"beta": 8}},
    "dist": {"ce": 1, "dist": {"weight": 2, "temperature": 4}},
    "srrl": {"ce": 1, "srrl": 1},
    "ickd": {"ce": 1, "ickd": 2.5},
    "crd": {"ce": 1, "crd": 0.8},
    "kd+at": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}, "at": 1000},
}
CPU = torch.device("cpu")


def pictures() -> Splits:
    """CIFAR-100 from the folder KDBENCH_DATA; where that is not set, random pictures of its size and number."""
    if place := os.environ.get("KDBENCH_DATA"):
        return load_splits("cifar100", {}, Path(place))
    print("KDBENCH_DATA is not set: random pictures instead of CIFAR-100", file=sys.stderr)
    generator = torch.Generator().manual_seed(0)
    train, test = (
        Images(
            torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator),
            torch.arange(count) % 100,
        )
        for count in (50_000, 10_000)
    )
    return Splits(train, test, 100)


def net(model: str, splits: Splits, *seed: object) -> Net:
    return build_net(ModelSpec(model=model), splits.task, *seed)


def frozen_teacher(model: str, splits: Splits, device: torch.device = CPU) -> Net:
    """Untrained: arithmetic does not care."""
    return freeze(net(model, splits, "teacher"), device)


def trial(
    student: str, row: dict[str, Any], teacher: Net, splits: Splits, train: Train, device: torch.device = CPU
) -> Trial:
    """A member of a cohort, as the engine makes it."""
    own, task = net(student, splits, "student").to(device), training_task(splits.task, train, splits.train.targets)
    built = built_objective(objective(row), own, teacher, task, device, 0)
    return Trial(own, built, train, device, 0)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def median(values: list[float]) -> float:
    return statistics.median(values)


def spread(values: list[float]) -> str:
    """Median, and the least and the most of the rounds."""
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__}


def report(what: str, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """One line of JSON, then the rows as a Markdown table."""
    print(json.dumps({"benchmark": what, **about, "rows": rows}, ensure_ascii=False))
    print(tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".4g"), flush=True)

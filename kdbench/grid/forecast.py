"""How long a plan takes on some devices: hours per cohort, and when the last of them is done."""

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from kdbench.errors import UserError
from kdbench.grid.plan import Plan
from kdbench.layout import Layout
from kdbench.suite.cells import Cell
from kdbench.suite.spec import ModelSpec

AS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*(gpu|cpu|device)s?(?:\s+at\s+(\d+(?:\.\d+)?)\s*tflops)?")


class Speed(Protocol):
    """Seconds per example; see `Probe`."""

    def forward(self, spec: ModelSpec, cell: Cell) -> float: ...
    def step(self, spec: ModelSpec, cell: Cell) -> float: ...
    def row(self, cell: Cell) -> float: ...
    @property
    def about(self) -> str: ...


@dataclass(frozen=True)
class Stated:
    """A device that sustains so many floating-point operations a second: 2 for a multiply-add, a step is 3 forwards."""

    plan: Plan
    flops: float

    def forward(self, spec: ModelSpec, cell: Cell) -> float:
        return 2 * self.plan.shapes.macs(spec, cell.dataset) / self.flops

    def step(self, spec: ModelSpec, cell: Cell) -> float:
        return 3 * self.forward(spec, cell)

    def row(self, cell: Cell) -> float:
        return 1.0

    @property
    def about(self) -> str:
        return f"multiply-adds at {self.flops / 1e12:g} TFLOPS, as you say; what rows cost beside the nets is left out"


@dataclass(frozen=True)
class Fleet:
    """`count` devices that train a cohort each; `flops`: of one, where it is said."""

    count: int
    kind: str
    flops: float | None = None


def fleet_of(text: str) -> Fleet:
    """`8 gpus`, `4 x 8 gpus at 100 tflops`. Raises UserError."""
    match = AS.fullmatch(text.strip().lower())
    if not match or not int(match[2]):
        raise UserError(f"--as {text!r}: say it like '8 gpus', '16 cpus' or '4 x 8 gpus at 100 tflops'")
    return Fleet(int(match[1] or 1) * int(match[2]), match[3], float(match[4]) * 1e12 if match[4] else None)


def check(fleet: Fleet, device: torch.device) -> None:
    """Raises UserError where the device here is of another kind and nobody said how fast one is."""
    if fleet.kind not in ("gpu" if device.type == "cuda" else "cpu", "device"):
        how = f"'{fleet.count} {fleet.kind}s at 50 tflops'"
        raise UserError(f"--as: no {fleet.kind} is here to be measured; say how fast one is, like {how}")


def seconds_of(cohort: Sequence[Cell], plan: Plan, speed: Speed) -> float:
    """Training and evaluation of a cohort by one device, without its teacher's training and the reading of data."""
    first, task = cohort[0], plan.shapes.task(cohort[0].dataset)
    seen = first.train.epochs * task.num_train * (1 - first.validation)
    looks = first.train.epochs * (task.num_test + task.num_train * first.validation)
    training = sum(speed.step(cell.student, cell) * speed.row(cell) for cell in cohort)
    teacher = speed.forward(first.teacher_net, first)
    return seen * (teacher + training) + looks * sum(speed.forward(cell.student, cell) for cell in cohort)


def teachers_of(plan: Plan, speed: Speed, results: Path) -> dict[str, float]:
    """Key -> seconds of every teacher that is not trained yet."""
    teachers = Layout(results).teachers
    found: dict[str, float] = {}
    for cell in plan.todo:
        for link in cell.lineage:
            if link.teacher_is_trained and not teachers.record(link.teacher_key).is_file():
                task, recipe = plan.shapes.task(link.dataset), link.teacher_train
                seen = recipe.epochs * task.num_train * (1 - link.validation)
                found[link.teacher_key] = seen * speed.step(link.teacher_net, link)
    return found


def done_after(seconds: Sequence[float], count: int) -> float:
    """When the last of the pieces is done that `count` devices share out, the longest first."""
    busy = [0.0] * count
    for piece in sorted(seconds, reverse=True):
        heapq.heapreplace(busy, busy[0] + piece)
    return max(busy)

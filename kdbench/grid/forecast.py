"""How long a plan takes: the one model of cost behind `init`, `plan`, the bar and what a run says at its end.

A cohort takes, each epoch, one forward of its teacher and a step of every member on all training examples, and a
forward of every member on all that it is judged by; and a little for each cell beside. A teacher takes its own steps
before. How long a step and a forward take a `Speed` says: measured, or by multiply-adds.
"""

import heapq
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from kdbench.batching import steps_per_epoch
from kdbench.errors import UserError
from kdbench.grid.plan import Plan
from kdbench.layout import Layout
from kdbench.suite.cells import Cell
from kdbench.suite.spec import ModelSpec
from kdbench.suite.starts import teaching

START = 12.0  # seconds before the first step and after the last: imports, proofs of the layers, tables, MLflow
CELL = 0.3  # seconds that each cell takes beside its steps: its scores, its record, its file
FILED = 50  # times as long where students are measured as files: eight seconds of latencies, writing, converting
AS = re.compile(r"(?:(\d+)\s*x\s*)?(\d+)\s*(gpu|cpu|device)s?(?:\s+at\s+(\d+(?:\.\d+)?)\s*tflops)?")


class Speed(Protocol):
    """Seconds per example; see `Probe`. `start`, `cell`: seconds of a run, and of a cell, beside all steps."""

    start: float
    cell: float

    def forward(self, spec: ModelSpec, cell: Cell) -> float: ...
    def step(self, spec: ModelSpec, cell: Cell) -> float: ...
    def row(self, cell: Cell) -> float: ...
    def load(self, cell: Cell) -> float: ...
    @property
    def about(self) -> str: ...


@dataclass
class Stated:
    """A device that sustains so many floating-point operations a second: 2 for a multiply-add, a step is 3 forwards.

    `launch`: seconds that a step takes however small the net is; `words`: what is said of it.
    """

    plan: Plan
    flops: float
    launch: float = 0.0
    start: float = 0.0
    cell: float = 0.0
    reads: bool = False  # is the reading of data counted?
    words: str = ""

    def forward(self, spec: ModelSpec, cell: Cell) -> float:
        return 2 * self.plan.shapes.macs(spec, cell.dataset) / self.flops

    def step(self, spec: ModelSpec, cell: Cell) -> float:
        return 3 * self.forward(spec, cell) + self.launch / cell.train.batch_size

    def row(self, cell: Cell) -> float:
        return 1.0

    def load(self, cell: Cell) -> float:
        return 1 / self.plan.shapes.held(cell.dataset).rate if self.reads else 0.0

    @property
    def about(self) -> str:
        stated = (
            f"multiply-adds at {self.flops / 1e12:g} TFLOPS, as you say; what rows cost beside the nets is left out"
        )
        return self.words or stated


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


def epoch_of(cohort: Sequence[Cell], plan: Plan, speed: Speed) -> float:
    """Seconds that an epoch of a cohort takes one device: training, and being judged. Conversions train nothing."""
    members = [cell for cell in cohort if not cell.then]
    if not members:
        return 0.0
    first, (seen, looked) = members[0], examples(members[0], plan)
    training = sum(speed.step(cell.make, cell) * speed.row(cell) for cell in members)
    teacher = speed.forward(first.teacher_net, first)
    judged = sum(speed.forward(cell.make, cell) for cell in members)
    return seen * (teacher + training) + looked * judged + (seen + looked) * speed.load(first)


def teacher_epoch(link: Cell, plan: Plan, speed: Speed) -> float:
    """The same of the training of the teacher of `link`, a cell or one above it."""
    seen, _ = examples(link, plan)
    return seen * (speed.step(link.teacher_net, link) + speed.load(link))


def examples(cell: Cell, plan: Plan) -> tuple[float, float]:
    """Of an epoch: those that are trained on, and those that a student is judged by."""
    task = plan.shapes.task(cell.dataset)
    held_out = task.num_train * cell.validation
    return task.num_train - held_out, task.num_test + held_out


def seconds_of(cohort: Sequence[Cell], plan: Plan, speed: Speed) -> float:
    """All of a cohort by one device, without its teacher's training."""
    return trained(cohort)[0].train.epochs * epoch_of(cohort, plan, speed) + beside(cohort, speed)


def beside(cohort: Sequence[Cell], speed: Speed) -> float:
    """Seconds beside all steps."""
    return speed.cell * sum(FILED if cell.filed else 1 for cell in cohort)


def trained(cohort: Sequence[Cell]) -> Sequence[Cell]:
    """Those of its cells that train; all of one that only converts."""
    return [cell for cell in cohort if not cell.then] or cohort


def loading_share(plan: Plan, speed: Speed) -> float:
    """Of the cohorts' time: what reading their examples takes, 0..1."""
    whole = sum(seconds_of(cohort, plan, speed) for cohort in plan.cohorts)
    firsts = [cohort[0] for cohort in plan.cohorts if not cohort[0].then]
    loading = sum(first.train.epochs * sum(examples(first, plan)) * speed.load(first) for first in firsts)
    return loading / whole if whole else 0.0


def teachers_of(plan: Plan, speed: Speed, results: Path) -> dict[str, float]:
    """Key -> seconds of every teacher that is not trained yet."""
    links = untrained(plan, results)
    return {key: link.teacher_train.epochs * teacher_epoch(link, plan, speed) for key, link in links.items()}


def untrained(plan: Plan, results: Path) -> dict[str, Cell]:
    """Key of every teacher that is not trained yet -> a cell that it teaches."""
    teachers = Layout(results).teachers
    links = [link for cell in plan.todo for link in teaching(cell).values() if link.teacher_is_trained]
    return {link.teacher_key: link for link in links if not teachers.record(link.teacher_key).is_file()}


@dataclass(frozen=True)
class Piece:
    """What one device does in one go. `steps`: of all its members; `after`: seconds of it after the last of them."""

    seconds: float
    steps: int
    after: float = 0.0


@dataclass(frozen=True)
class Forecast:
    """A run before it is made. `count`: devices, or processes, that work at a time; `sure`: was it measured?"""

    teachers: Mapping[str, Piece] = field(default_factory=dict)
    cohorts: Mapping[str, Piece] = field(default_factory=dict)
    count: int = 1
    start: float = 0.0
    sure: bool = False
    about: str = ""

    @property
    def seconds(self) -> float:
        return self.start + self.left({})

    @property
    def ending(self) -> float:
        """Seconds after the last step: latencies and records of the last cohort, then tables and MLflow."""
        return self.start / 2 + max((piece.after for piece in self.cohorts.values()), default=0.0)

    def left(self, done: Mapping[str, int]) -> float:
        """Seconds from where of each piece so many steps are `done`: first the teachers, then cohorts in their order.

        Those that are begun go on where they are: they keep their devices.
        """
        teachers = [self._rest(key, piece, done) for key, piece in self.teachers.items()]
        begun = sorted(self.cohorts, key=lambda key: key not in done)
        cohorts = [self._rest(key, self.cohorts[key], done) for key in begun]
        return done_after(teachers, self.count) + shared_out(cohorts, self.count)

    def _rest(self, key: str, piece: Piece, done: Mapping[str, int]) -> float:
        return piece.seconds * max(0.0, 1 - done.get(key, 0) / max(piece.steps, 1))


def forecast(plan: Plan, speed: Speed, count: int, results: Path, sure: bool = False) -> Forecast:
    """Of all that the plan has to do."""
    seconds = teachers_of(plan, speed, results)
    teachers = {
        key: Piece(seconds[key], link.teacher_train.epochs * steps_of(link, plan, link.teacher_train.batch_size))
        for key, link in untrained(plan, results).items()
    }
    cohorts = {cohort[0].cohort: piece_of(cohort, plan, speed) for cohort in plan.cohorts}
    return Forecast(teachers, cohorts, count, speed.start, sure, speed.about)


def piece_of(cohort: Sequence[Cell], plan: Plan, speed: Speed) -> Piece:
    train, members = trained(cohort)[0].train, sum(not cell.then for cell in cohort)
    steps = members * train.epochs * steps_of(cohort[0], plan, train.batch_size)
    return Piece(seconds_of(cohort, plan, speed), steps, beside(cohort, speed))


def steps_of(cell: Cell, plan: Plan, batch_size: int) -> int:
    """Of one epoch."""
    num_train = plan.shapes.task(cell.dataset).num_train
    return steps_per_epoch(num_train - math.ceil(num_train * cell.validation), batch_size)


def done_after(seconds: Sequence[float], count: int) -> float:
    """When the last of the pieces is done that `count` devices share out, the longest first."""
    return shared_out(sorted(seconds, reverse=True), count)


def shared_out(seconds: Iterable[float], count: int) -> float:
    """The same, in the order that is given."""
    busy = [0.0] * count
    for piece in seconds:
        heapq.heapreplace(busy, busy[0] + piece)
    return max(busy)

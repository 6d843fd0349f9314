"""How fast this device is, by a few steps of the very nets and rows that a plan will train.

Nets are measured on random inputs, in as large a part of the batch as a step of half a second allows; rows on the
smallest pair; all after the smallest net has warmed up, since the first step of a process imports for seconds. That
part is another one for every net and row, so all are compared by an example. What there is no time for is taken from
the rest: a net by its multiply-adds, a row as the others. What was measured stands in the results folder, so that
`plan` and the bar of the run speak of the same numbers.
"""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from kdbench.errors import UserError, first_line
from kdbench.grid.company import company
from kdbench.grid.forecast import CELL, START, trained
from kdbench.grid.plan import Plan
from kdbench.grid.speeds import Speeds, conditions, keep
from kdbench.method.contract import Batch, Outputs
from kdbench.method.kinds import targets_of
from kdbench.nets import Net, build_net
from kdbench.seeding import seeded
from kdbench.suite.cells import Cell
from kdbench.suite.objectives import BASELINES, ObjectiveSpec, objective
from kdbench.suite.spec import ModelSpec
from kdbench.suite.steps import steps_of
from kdbench.train.lent import Guard
from kdbench.train.memory import keep_freed
from kdbench.train.objective import built_objective
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.transforms import stand_ins, transformed
from kdbench.train.trial import Trial, forward_teacher, views_of

LONGEST = 0.5  # seconds of a step that is measured
ROUNDS = 3
ALWAYS = 2  # nets, however little time there is: teacher and student differ too much to tell one by the other
SPARE = 1.1  # a run against its steps alone: checkpoints, checks of what is lent, a busy machine
LOGITS = frozenset({"logits"})
RATE = torch.tensor(1e-3, dtype=torch.float64)
Say = Callable[[str], None]


@dataclass
class Probe:
    """Seconds per example on this device, with as many threads as it now has. `left`: seconds it may still take."""

    plan: Plan
    device: torch.device
    left: float
    speeds: Speeds = field(default_factory=Speeds)
    per_mac: list[tuple[float, float]] = field(default_factory=list)
    why: str = ""  # the last measurement failed
    start: float = START
    cell: float = CELL

    def forward(self, spec: ModelSpec, cell: Cell) -> float:
        return SPARE * self.of(spec, cell)[0]

    def step(self, spec: ModelSpec, cell: Cell) -> float:
        """Of a student alone: forward, backward and optimizer."""
        return SPARE * self.of(spec, cell)[1]

    def row(self, cell: Cell) -> float:
        """How many times as long as the student's alone the cell's step takes; on another pair where it must be."""
        rows = self.speeds.rows
        alike = [ratio for name, ratio in rows.items() if name.endswith(row_of(cell))]
        return rows.get(row_name(cell)) or mean(alike or list(rows.values()) or [1.0])

    def load(self, cell: Cell) -> float:
        return 1 / self.plan.shapes.held(cell.dataset).rate

    def of(self, spec: ModelSpec, cell: Cell) -> tuple[float, float]:
        if (found := self.speeds.nets.get(name_of(spec, cell))) is not None:
            return found
        macs = self.plan.shapes.macs(spec, cell.dataset)
        forward, step = (median(column) for column in zip(*self.per_mac, strict=True))
        return macs * forward, macs * step

    @property
    def about(self) -> str:
        """What it rests on."""
        nets = {name_of(spec, cell) for cell in self.plan.todo for spec in (cell.make, cell.teacher_net)}
        rows = {row_of(cell) for cell in trained(self.plan.todo)}
        known = {row for row in rows if any(name.endswith(row) for name in self.speeds.rows)}
        measured = (
            f"steps of {len(nets & set(self.speeds.nets))} of {len(nets)} nets and {len(known)} of {len(rows)} rows"
        )
        return f"{measured}, measured {self.speeds.when}"

    def in_time(self, measure: Callable[[], None], always: bool = False) -> None:
        """Nothing where there is no time left; what a plugin raises is told when it trains."""
        start = time.perf_counter()
        if self.left > 0 or always:
            try:
                with Guard():
                    measure()
            except Exception as error:
                self.why = first_line(error)
        self.left -= time.perf_counter() - start


def probe(
    plan: Plan, device: torch.device, seconds: float = 20.0, beside: int = 0, say: Say = lambda what: None
) -> Probe:
    """Measure what the plan has to do: nets, the smallest first, then rows. Raises UserError where nothing can be.

    `beside`: how many other processes will train at the same time, on a CPU. `say` is told what is measured.
    """
    made = Probe(plan, device, seconds)
    nets = {name_of(spec, cell): (spec, cell) for cell in plan.todo for spec in (cell.teacher_net, cell.make)}
    macs = {name: plan.shapes.macs(spec, cell.dataset) for name, (spec, cell) in nets.items()}
    keep_freed()
    with seeded("probe"), company(beside if device.type == "cpu" else 0):
        order = sorted(nets, key=lambda name: macs[name])  # the small ones are quick, and most are trained
        with suppress(Exception), Guard():  # the first step of a process imports for seconds
            trial_of(nets[order[0]][1], nets[order[0]][0], None, made, plain(made, nets[order[0]][1]))
        for name in order:
            say(nets[name][0].short)
            made.in_time(partial(note, made, name, *nets[name]), always=len(made.per_mac) < ALWAYS)
        if not made.per_mac:
            raise UserError(f"no net of this plan can be measured here: {made.why}")
        smallest = min(trained(plan.todo), key=lambda c: macs[name_of(c.make, c)] + macs[name_of(c.teacher_net, c)])
        alone = time_of_row(smallest, made, plain(made, smallest))
        for cell in {row_of(c): c for c in trained(plan.todo) if same_pair(c, smallest)}.values():
            say(f"{cell.label} on {cell.student.short}")
            made.in_time(partial(note_row, made, cell, alone))
    return made


def kept(made: Probe, results: Path) -> Probe:
    """Note in the results folder what was measured; a folder that can't be written only forgets it."""
    with suppress(OSError):
        keep(results, conditions(made.device), made.speeds)
    return made


def known(plan: Plan, device: torch.device, speeds: Speeds) -> Probe | None:
    """What was measured earlier, where all nets of the plan were; of its rows others may speak, as in `Probe.row`."""
    nets = {name_of(spec, cell) for cell in plan.todo for spec in (cell.make, cell.teacher_net)}
    return Probe(plan, device, 0.0, speeds) if nets <= set(speeds.nets) else None


def row_of(cell: Cell) -> str:
    """A row without its pair: what its objective computes."""
    return f" {json.dumps(cell.phases, sort_keys=True)}"


def row_name(cell: Cell) -> str:
    return name_of(cell.teacher_net, cell) + name_of(cell.make, cell) + row_of(cell)


def same_pair(one: Cell, other: Cell) -> bool:
    return (one.pair, one.dataset, one.train) == (other.pair, other.dataset, other.train)


def plain(made: Probe, cell: Cell) -> ObjectiveSpec:
    """Labels alone."""
    return objective({BASELINES[made.plan.shapes.task(cell.dataset).kind]: 1.0})


def name_of(spec: ModelSpec, cell: Cell) -> str:
    return " ".join([spec.model_dump_json(), cell.dataset.model_dump_json(), cell.train.precision])


def note(made: Probe, name: str, spec: ModelSpec, cell: Cell) -> None:
    """Measure a net, as teacher and as student."""
    trial, batch, nothing = trial_of(cell, spec, None, made, plain(made, cell))
    macs = made.plan.shapes.macs(spec, cell.dataset)
    frozen = freeze(net_of(spec, cell, made), made.device)
    precision, count = cell.train.precision, len(batch.target)
    step = time_of(lambda: trial.step(batch, nothing, RATE), made.device)
    forward = time_of(lambda: forward_teacher(frozen, batch, LOGITS, precision), made.device)
    made.speeds.nets[name] = forward / count, step / count
    made.per_mac.append((forward / count / macs, step / count / macs))


def note_row(made: Probe, cell: Cell, alone: float) -> None:
    """Measure a row; `alone`: seconds per example of a step of the student alone."""
    made.speeds.rows[row_name(cell)] = time_of_row(cell, made, cell.phases) / alone


def time_of_row(cell: Cell, made: Probe, phases: ObjectiveSpec) -> float:
    """Seconds per example of a step."""
    teacher = freeze(net_of(cell.teacher_net, cell, made), made.device)
    trial, batch, teacher_out = trial_of(cell, cell.make, teacher, made, phases)
    return time_of(lambda: trial.step(batch, teacher_out, RATE), made.device) / len(batch.target)


def trial_of(
    cell: Cell, spec: ModelSpec, teacher: Net | None, made: Probe, phases: ObjectiveSpec
) -> tuple[Trial, Batch, Outputs]:
    """A trial that can make steps on a batch of random inputs, and the teacher's outputs on it."""
    net, task = net_of(spec, cell, made), made.plan.shapes.task(cell.dataset)
    training = training_task(task, cell.train, targets_of(task, torch.arange(task.num_train)))
    built = built_objective(phases, net, teacher or net, training, made.device, 0)
    trial = Trial(net, built, cell.train, made.device, 0)
    trial.enter(0, fresh=False, steps=1)
    needs = built.needs if teacher is not None else frozenset()
    batch_of = partial(random_batch, cell, needs={*needs, *built.student_needs}, made=made)
    nothing = Outputs(torch.zeros(0))
    ask = lambda batch: forward_teacher(teacher, batch, needs, cell.train.precision) if teacher and needs else nothing  # noqa: E731

    def took(count: int) -> float:
        batch = batch_of(count)
        return time_of(lambda: trial.step(batch, ask(batch), RATE), made.device, rounds=1)

    batch = batch_of(count_for(took, min(cell.train.batch_size, task.num_train)))
    return trial, batch, ask(batch)


def count_for(took: Callable[[int], float], most: int) -> int:
    """Of how many examples a step may be, at most so many, to take half a second. `took(count)`: how long one takes.

    Few examples take as long as some more where a step's launches decide, so the count grows as long as it pays.
    """
    count = min(4, most)
    while (fitting := max(2, min(most, int(count * LONGEST / took(count))))) > 2 * count:
        count = fitting
    return fitting


def random_batch(cell: Cell, count: int, needs: Iterable[str], made: Probe) -> Batch:
    task = made.plan.shapes.task(cell.dataset)
    places = torch.randperm(task.num_train)[:count].to(made.device)
    views: dict[str, Any] = {view: task.inputs.random(count, made.device) for view in views_of(needs)}
    return Batch(task.inputs.random(count, made.device), targets_of(task, places), places, views=views)


def net_of(spec: ModelSpec, cell: Cell, made: Probe) -> Net:
    plain = spec.model_copy(update={"pretrained": False, "checkpoint": None})
    task = made.plan.shapes.task(cell.dataset)
    steps, noise = steps_of(spec.transforms or ()), stand_ins(task.inputs, task.num_classes, task.kind)
    return transformed(build_net(plain, task, "student", 0), steps, task.inputs, noise).to(made.device)


def time_of(call: Callable[[], Any], device: torch.device, rounds: int = ROUNDS) -> float:
    """Seconds of one call: the median of some, after one that is not counted."""
    call()
    took = []
    for _ in range(rounds):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        took.append(time.perf_counter() - start)
    return median(took)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How long steps take on this device: a few of each row, on noise of the right size, in the engine's own loop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from kdbench.commands.budget import Costs
from kdbench.data import Splits
from kdbench.method.contract import Inapplicable
from kdbench.nets import Net, build_net
from kdbench.suite.cells import Cell
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.start import start_trial
from kdbench.train.trial import Trial
from kdbench.vision.batches import Images

WITHOUT_WEIGHTS = {"pretrained": False, "checkpoint": None, "checkpoint_entry": None, "head": None}
SHARE = 0.4  # of the time allowed that the teacher's own steps may take: at a smaller size where they would take more
Say = Callable[[str], None]


def measure(
    cells: Sequence[Cell], classes: int, sizes: Sequence[int], device: torch.device, limit: float, say: Say
) -> Costs:
    """Costs of the cells (of one seed) at one of `sizes`, the largest that `limit` seconds allow.

    `say` is told what is measured. A row that the time does not reach is taken to cost as much as the
    dearest of its student.
    """
    began, batch = time.monotonic(), cells[0].train.batch_size
    cells = [_bare(cell) for cell in cells]
    side = _affordable(cells[0], classes, sizes, device, SHARE * limit)
    costs, splits = Costs(batch=batch, side=side), noise(classes, side, batch).to(device)
    say(f"{cells[0].teacher.model}, the teacher, at {side} x {side}")
    teacher = _teacher(cells, splits, device, costs)
    alone_first = sorted(cells, key=lambda cell: not cell.is_alone)
    for cell in alone_first:
        place = cell.student.short, cell.label
        if not cell.is_alone and time.monotonic() - began > limit:
            costs.unmeasured.add(place)
            continue
        say(f"{cell.label} on {cell.student.short}")
        _row(cell, teacher, splits, device, costs)
    for student, row in costs.unmeasured:
        costs.steps[student, row] = max(seconds for (name, _), seconds in costs.steps.items() if name == student)
    return costs


def _bare(cell: Cell) -> Cell:
    """Without weights, which change no step's time, and with an epoch to warm up and one to measure."""
    nets = {role: getattr(cell, role).model_copy(update=WITHOUT_WEIGHTS) for role in ("teacher", "student")}
    return replace(cell, train=cell.train.model_copy(update={"epochs": 2, "warmup_epochs": 0.0}), **nets)


def _affordable(cell: Cell, classes: int, sizes: Sequence[int], device: torch.device, limit: float) -> int:
    """The largest size at which two epochs of the teacher take less than `limit` seconds; a few pictures tell."""
    smallest, few = min(sizes), 4
    splits = noise(classes, smallest, few)
    net = build_net(cell.teacher, splits.task, "teacher", 0).to(device).train()
    images = splits.task.inputs.random(few).to(device)  # type: ignore[union-attr]
    for _ in range(2):
        start = time.monotonic()
        net(images).logits.sum().item()
        forward = (time.monotonic() - start) / few
    # The first step is made twice, and a step is three forwards; both epochs are evaluated.
    whole = forward * cell.train.batch_size * (3 * 3 + 2 * 2) / smallest**2
    return max([size for size in sizes if whole * size**2 <= limit], default=smallest)


def noise(classes: int, size: int, count: int) -> Splits:
    """Pictures of the right size and number of classes; what they show does not change how long a step takes."""
    made = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=made).to(torch.uint8)
    images = Images(pixels, torch.arange(count) % classes)
    return Splits(images, images, classes)


def _teacher(cells: Sequence[Cell], splits: Splits, device: torch.device, costs: Costs) -> Net:
    """The teacher, whose own step is measured as that of a student alone."""
    teacher = build_net(cells[0].teacher, splits.task, "teacher", 0).to(device)
    alone = next(cell for cell in cells if cell.is_alone)
    found = _timed(_start(replace(alone, student=alone.teacher), splits, teacher, device), None, splits, alone)
    costs.teacher_step, costs.test = found["step"], found["test"]
    return teacher.requires_grad_(False).eval()


def _row(cell: Cell, teacher: Net, splits: Splits, device: torch.device, costs: Costs) -> None:
    place = cell.student.short, cell.label
    try:
        trial = _start(cell, splits, teacher, device)
    except Inapplicable as reason:
        costs.inapplicable[place] = str(reason)
        return
    found = _timed(trial, teacher, splits, cell)
    if trial.status == "failed":
        costs.inapplicable[place] = trial.reason
        return
    costs.steps[place] = found["step"]
    costs.data = max(costs.data, found["data"])
    costs.teacher_forward = max(costs.teacher_forward, found["teacher"])


def _start(cell: Cell, splits: Splits, teacher: Any, device: torch.device) -> Trial:
    net = build_net(cell.student, splits.task, "student", 0)
    return start_trial(cell, net, splits, teacher, device, None)


def _timed(trial: Trial, teacher: Any, splits: Splits, cell: Cell) -> dict[str, float]:
    """Seconds per step in the second epoch (the first one warms up), and per picture of an evaluation."""
    before: dict[str, float] = {}

    def epoch(trial: Trial) -> None:
        before.update({} if before else trial.seconds)

    train_cohort(Cohort(teacher, splits, cell.train.batches, 0, Hooks(epoch=epoch)), [trial])
    spent = {name: value - before.get(name, 0.0) for name, value in trial.seconds.items()}
    steps = splits.train.steps(cell.train.batches)
    return {**{name: value / steps for name, value in spent.items()}, "test": spent["epochs"] / len(splits.test)}

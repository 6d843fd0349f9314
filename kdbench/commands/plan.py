"""`kdbench plan`: cells, what is done, what does not apply and why, the time."""

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from kdbench.api import choose_device
from kdbench.api import plan as make
from kdbench.commands.console import console, table
from kdbench.commands.given import options_of
from kdbench.data import Held
from kdbench.grid.estimate import by_convolution
from kdbench.grid.forecast import (
    Fleet,
    Speed,
    Stated,
    check,
    fleet_of,
    forecast,
    loading_share,
    seconds_of,
    teachers_of,
)
from kdbench.grid.plan import Plan
from kdbench.grid.probe import kept, known, probe
from kdbench.grid.progress import clock
from kdbench.grid.proof import precisions_of
from kdbench.grid.run import using
from kdbench.grid.shares import shares_of
from kdbench.grid.speeds import conditions, measured
from kdbench.plain import several
from kdbench.results.other_state import other_state
from kdbench.train.arithmetic import slow_precision
from kdbench.train.evaluation import check_precision


def run(given: argparse.Namespace) -> int:
    """Cells and cohorts, what is done, what does not apply and why, and a rough time."""
    options = options_of(given)
    choose_device(options.device)  # what is wrong with it is said at once
    made = make(given.suite, **vars(options))
    if given.shell:
        print("\n".join(shell_lines(made, given.words)))
        return 0
    out = console()
    name, todo = made.name, made.todo
    out.print(f"{name}: {several(len(made.cells), 'cell')}, {made.num_done} done, {made.in_words}")
    for line in made.damaged:
        out.print(line, soft_wrap=True)
    fleet, speed = asked_of(given, made)
    cohorts = table(
        "data set", "teacher", "students", ">seed", ">cells", ">epochs", ">batch", *[">hours"] * bool(speed)
    )
    for cohort in made.cohorts[:40]:
        first, students = cohort[0], sorted({c.student.short for c in cohort})
        cells = [first.dataset.name, first.teacher.short, ", ".join(students), first.seed, len(cohort)]
        hours = [f"{seconds_of(cohort, made, speed) / 3600:.2g}"] if speed else []
        trains = next((c.train for c in cohort if not c.then), None)
        cohorts.add_row(*map(str, [*cells, *((trains.epochs, trains.batch_size) if trains else "––"), *hours]))
    if todo:
        out.print(cohorts)
    if len(made.cohorts) > 40:
        out.print(f"... and {several(len(made.cohorts) - 40, 'cohort')} more")
    held = held_by(made)
    places = [f"{json.loads(spec)['name']}: {what.words}" for spec, what in held.items() if what.words]
    left = other_state(options.results, made.name, made.cells)
    for line in [*([left] if left else []), *places, *why_not(made)]:
        out.print(line, soft_wrap=True, markup=False)
    if todo:
        device = choose_device(options.device)
        check_precision(device, precisions_of(made))
        if slow := slow_precision(device, (c.train.precision for c in todo)):
            out.print(slow, soft_wrap=True)
        if speed and fleet:
            out.print(in_words(made, options.results, fleet, speed), soft_wrap=True)
            return 0
        out.print(roughly(made, options.results, device), soft_wrap=True)
    return 0


def asked_of(given: argparse.Namespace, made: Plan) -> tuple[Fleet | None, Speed | None]:
    """The devices of --as, or those here, and how fast they are; nothing where nobody asks."""
    if not made.todo or not (given.hours or given.devices_like):
        return None, None
    device = choose_device(given.device)
    check_precision(device, precisions_of(made))
    shares = shares_of(made, device, None)
    fleet = fleet_of(given.devices_like) if given.devices_like else Fleet(len(shares), "device")
    if fleet.flops is not None:
        return fleet, Stated(made, fleet.flops)
    check(fleet, device)
    with using(shares[0].threads):
        return fleet, kept(probe(made, device, beside=len(shares) - 1), options_of(given).results)


def roughly(made: Plan, results: Path, device: torch.device) -> str:
    """The time of the run, as its bar will begin with it where the machine was measured, else by a convolution."""
    shares = shares_of(made, device, None)
    with using(shares[0].threads):
        before = known(made, device, measured(results, conditions(device)))
        speed = before or by_convolution(made, device)
        about, share = forecast(made, speed, len(shares), results), loading_share(made, speed)
    loading = f", {100 * share:.0f}% of it for loading" if share else ""
    better = "" if before else "; --hours measures its own steps"
    return f"roughly {clock(about.seconds)} on {device}{loading} (by {about.about}{better})"


def in_words(made: Plan, results: Path, fleet: Fleet, speed: Speed) -> str:
    """When the last cohort is done, and what that rests on."""
    cohorts = [seconds_of(cohort, made, speed) for cohort in made.cohorts]
    teachers = list(teachers_of(made, speed, results).values())
    whole = forecast(made, speed, fleet.count, results).seconds
    kind = f"{fleet.kind}{'s' * (fleet.count > 1)}"
    return (
        f"an estimate: {clock(whole)} on {fleet.count} {kind}; the work is {clock(sum(teachers))} for "
        f"{several(len(teachers), 'teacher')} and {clock(sum(cohorts))} for students, {clock(max(cohorts))} the "
        f"longest cohort. It rests on {speed.about}. Not counted: augmentation, other work on the device."
    )


def shell_lines(made: Plan, words: Sequence[str]) -> list[str]:
    """A command for every cohort that is left, for schedulers. `words`: those that this command was called with."""
    same = [word for word in words[1:] if word != "--shell"]
    return [shlex.join(["kdbench", "run", *same, "--only", cohort[0].cohort, "--jobs", "1"]) for cohort in made.cohorts]


def held_by(made: Plan) -> dict[str, Held]:
    """Of each data set that is to be trained on: where its examples will lie."""
    specs = {cell.dataset.model_dump_json(): cell.dataset for cell in made.todo}
    return {name: made.shapes.held(spec) for name, spec in specs.items()}


def why_not(made: Plan) -> list[str]:
    """One line per row and pair that does not apply, or whose code raises."""
    lines: dict[str, None] = {}
    for cell in made.cells:
        for what, reasons in (("does not apply", made.inapplicable), ("fails", made.failing)):
            if cell.key in reasons:
                lines[f"{what}: {cell.dataset.name} · {cell.pair} · {cell.label}: {reasons[cell.key]}"] = None
    return list(lines)

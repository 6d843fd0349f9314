"""The arithmetic of a whole plan, proven before anything starts."""

from collections.abc import Callable
from contextlib import suppress

import torch

from kdbench.errors import UserError
from kdbench.grid.plan import Plan
from kdbench.method.contract import Batch
from kdbench.suite.cells import Cell
from kdbench.train.arithmetic import NONE, in_words, noting, trusted, verdicts
from kdbench.train.evaluation import autocast
from kdbench.train.objective import Objective, needs_of, student_needs_of
from kdbench.train.proof import Operation
from kdbench.train.trial import narrow_adapters

CPU = torch.device("cpu")


def prove(plan: Plan, device: torch.device, say: Callable[[str], None]) -> None:
    """Say what is off on this CPU and led around. Raises UserError where no way is right. A GPU is not proven."""
    if device.type != "cpu" or not plan.todo:
        return
    operations, known = {o.name: o for o in operations_of(plan)}, verdicts()
    known.prove(operations.values())
    off = {name: known.known[name] for name in operations if known.known[name]["way"] != "as it is"}
    if hopeless := [in_words(name, verdict) for name, verdict in off.items() if verdict["way"] == NONE]:
        raise UserError("\n".join(hopeless))
    for name, verdict in off.items():
        say(in_words(name, verdict))


def operations_of(plan: Plan) -> list[Operation]:
    """Of every net and adapter that is still to be trained, found on the meta device."""
    seen: set[str] = set()
    found: list[Operation] = []
    for cell in plan.todo:
        for link in [*cell.lineage, cell]:
            what = f"{link.dataset} {link.teacher} {link.student} {link.train} {link.teacher_train} {link.phases}"
            if what not in seen:
                seen.add(what)
                found += _of_cell(plan, link)
    return list({o.name: o for o in found}.values())


def _of_cell(plan: Plan, cell: Cell) -> list[Operation]:
    """Notes are of maps in channels_last, as all nets are put into it; of the cell's teacher, student and adapters."""
    shapes, precision = plan.shapes, cell.train.precision
    task = shapes.training_task(cell.dataset, cell.train)
    batch = Batch(task.inputs.blank(2, "meta"), *torch.zeros(2, 2, dtype=torch.int64, device="meta"))
    nets = ((cell.teacher, cell.teacher_train.precision), (cell.teacher, precision), (cell.student, precision))
    with noting() as noted:
        for spec, kind in nets:
            net = shapes.net(spec, cell.dataset)
            trusted(net)
            with torch.no_grad(), autocast(CPU, kind):
                net(batch.inputs)
        wanted = ((cell.student, student_needs_of(cell.methods)), (cell.teacher, needs_of(cell.methods)))
        student, teacher = (shapes.outputs(spec, cell.dataset, needs) for spec, needs in wanted)
        built = Objective(cell.phases)
        with torch.device("meta"):
            built.build(student, teacher, task, 0)
        trusted(built)
        narrow_adapters(built, CPU, precision)
        for place in range(len(cell.phases)):
            built.place = place
            with suppress(Exception):  # a loss that reads numbers; its adapters were met before, or are in training
                built(student, teacher, batch)
        return list(noted)

"""The arithmetic of a whole plan, proven before anything starts."""

from collections.abc import Callable

import torch

from kdbench.errors import UserError
from kdbench.grid.plan import Plan
from kdbench.method.contract import blank_batch
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
    task, precision = plan.shapes.task(cell.dataset, cell.train), cell.train.precision
    batch = blank_batch(task, "meta")
    batch.images.data = batch.images.contiguous(memory_format=torch.channels_last)
    needs, student_needs = needs_of(cell.methods), student_needs_of(cell.methods)
    with noting() as noted:
        for spec, name in (
            (cell.teacher, cell.teacher_train.precision),
            (cell.student, precision),
            (cell.teacher, precision),
        ):
            net = plan.shapes.net(spec, cell.dataset)
            trusted(net)
            with torch.no_grad(), autocast(CPU, name):
                net(batch.images)
        built = Objective(cell.phases)
        student, teacher = (
            plan.shapes.outputs(spec, cell.dataset, wanted)
            for spec, wanted in ((cell.student, student_needs), (cell.teacher, needs))
        )
        with torch.device("meta"):
            built.build(student, teacher, task, 0)
        trusted(built)
        narrow_adapters(built, CPU, precision)
        for place in range(len(cell.phases)):
            built.place = place
            try:
                built(student, teacher, batch)
            except Exception:  # a loss that reads numbers; its adapters were met before that, or are met in training
                continue
        return list(noted)

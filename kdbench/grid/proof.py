"""The arithmetic of a whole plan, proven before anything starts."""

import hashlib
from collections.abc import Callable
from contextlib import suppress

import torch

from kdbench.errors import UserError
from kdbench.grid.plan import Plan
from kdbench.method.contract import Batch, InputSpec
from kdbench.suite.cells import Cell
from kdbench.train.arithmetic import NONE, RIGHT, UNSTARTED, Verdicts, in_words, noting, trusted, verdicts
from kdbench.train.evaluation import autocast, check_precision
from kdbench.train.lent import Guard
from kdbench.train.objective import Objective, needs_of, student_needs_of
from kdbench.train.proof import Operation
from kdbench.train.trial import narrow_adapters

CPU = torch.device("cpu")


def prove(plan: Plan, device: torch.device, say: Callable[[str], None]) -> None:
    """Say what is off on this CPU and led around. Raises UserError where no way is right, or for fp16 on a CPU.

    A GPU is not proven.
    """
    check_precision(device, precisions_of(plan))
    if device.type != "cpu" or not plan.todo:
        return
    known = verdicts()
    names = proven(plan, known)
    if not known.starts:
        say(UNSTARTED)
    off = {name: known.known[name] for name in names if known.known[name]["way"] != RIGHT}
    if hopeless := [in_words(name, verdict) for name, verdict in off.items() if verdict["way"] == NONE]:
        raise UserError("\n".join(hopeless))
    for name, verdict in off.items():
        say(in_words(name, verdict))


def precisions_of(plan: Plan) -> set[str]:
    """In which its cells and their teachers are to be trained."""
    return {train.precision for cell in plan.todo for train in (cell.train, cell.teacher_train)}


def proven(plan: Plan, known: Verdicts) -> list[str]:
    """The operations of all that is still to be trained that have a verdict of this machine: each where it can prove.

    A case (all but the seed) that was proven before is not traced again: its operations are noted with the verdicts.
    Should its code have changed since, what it calls newly is proven when it is first called.
    """
    cases = {link.case: link for cell in plan.todo for link in [*cell.lineage, cell]}
    new: dict[str, list[Operation]] = {}
    for case, cell in cases.items():
        if digest_of(case) not in known.cases:
            new[digest_of(case)] = operations_of(plan, cell)
    known.prove([operation for operations in new.values() for operation in operations])
    if new:
        known.note({case: sorted({o.name for o in operations}) for case, operations in new.items()})
    return list(dict.fromkeys(name for case in cases for name in known.cases[digest_of(case)] if name in known.known))


def digest_of(case: tuple[str, ...]) -> str:
    return hashlib.sha256(repr(case).encode()).hexdigest()[:16]


def operations_of(plan: Plan, cell: Cell) -> list[Operation]:
    """Notes are of maps in channels_last, as all nets are put into it; of the cell's teacher, student and adapters."""
    shapes, precision = plan.shapes, cell.train.precision
    task = shapes.training_task(cell.dataset, cell.train)
    batches = [blank_batch(inputs) for inputs in (task.inputs, *task.inputs.others)]
    nets = ((cell.teacher, cell.teacher_train.precision), (cell.teacher, precision), (cell.make, precision))
    with noting() as noted:
        for spec, kind in nets:
            net = shapes.net(spec, cell.dataset)
            trusted(net)
            with torch.no_grad(), autocast(CPU, kind):
                for batch in batches:
                    net(batch.inputs)
        wanted = ((cell.make, student_needs_of(cell.methods)), (cell.teacher, needs_of(cell.methods)))
        student, teacher = (shapes.outputs(spec, cell.dataset, needs) for spec, needs in wanted)
        with suppress(Exception), Guard():  # what it raises now it raises again, as that cell's own end
            built = Objective(cell.phases)
            with torch.device("meta"):
                built.build(student, teacher, task, 0)
            trusted(built)
            narrow_adapters(built, CPU, precision)
            for place in range(len(cell.phases)):
                built.place = place
                with suppress(Exception), Guard():  # a loss that reads numbers: its adapters are met in training
                    built(student, teacher, batches[0])
        return list(noted)


def blank_batch(inputs: InputSpec) -> Batch:
    return Batch(inputs.blank(2, "meta"), *torch.zeros(2, 2, dtype=torch.int64, device="meta"))

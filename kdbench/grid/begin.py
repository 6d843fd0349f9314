"""What a cell begins with: a new student, its teacher's layers, or another cell's trained student; transformed."""

from collections.abc import Callable
from pathlib import Path

import torch

from kdbench.data import Splits
from kdbench.errors import UserError
from kdbench.layout import Layout
from kdbench.method.contract import Inapplicable, InputSpec
from kdbench.nets import Net, build_net
from kdbench.parts import names_within
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.takeover import taken_from
from kdbench.train.load import weights_of
from kdbench.train.teacher import Teacher
from kdbench.train.transforms import examples, rebuilt, transformed
from kdbench.weights import give_weights, mismatch


def giver_of(cell: Cell, teacher: Teacher, obtain: Callable[[Cell], Teacher]) -> Net | None:
    """The net whose weights its student begins with: `teacher`, its own; or the pair's, where that is a control."""
    if cell.giver is None:
        return None
    return (teacher if cell.giver.teacher_key == teacher.key else obtain(cell.giver)).net


def student_of(cell: Cell, splits: Splits, results: Path, device: torch.device, giver: Net | None) -> Net:
    """Its net before the first step, on `device`. `giver`: see `giver_of`. Raises Inapplicable, or UserError."""
    expected = cell.identity["student"].get("checkpoint")
    net = build_net(cell.student_net, splits.task, "student", cell.seed, expected=expected)
    if giver is not None and (layers := cell.student.taken) is not None:
        give_weights(net.model, taken_from(giver, net, layers, cell.student.head is not None))
    if cell.start is not None:
        take_over(net, *left_by(cell.start, results), splits.task.inputs, cell.adapts)
    shown = examples(splits.train, cell.seed)
    return transformed(net.to(device), cell.transforms, splits.task.inputs, shown, cell.seed)


def left_by(cell: Cell, results: Path) -> tuple[Record, Path]:
    """The record and the student of a finished cell. Raises Inapplicable where that was skipped, else UserError."""
    record = Records(results, cell.suite).read(cell.key)
    weights = Layout(results).suite(cell.suite).student(cell.key)
    if record is not None and record["status"] == "done" and weights.is_file():
        return record, weights
    status = "missing" if record is None else record["status"]
    if status == "skipped":
        raise Inapplicable(f"begins with what does not apply: {record and record['reason']}")
    what = f"{cell.student.short}, {cell.label}, seed {cell.seed}"
    raise UserError(f"begins with a student ({what}) that is {status if status != 'done' else 'gone'}")


def take_over(net: Net, record: Record, path: Path, inputs: InputSpec, new_head: bool = False) -> None:
    """Give a new net the shapes and the weights of a trained one. Raises UserError where layers of its method stay.

    `new_head`: all but the classifier, and without such layers.
    """
    state = weights_of(record, path)
    if new_head:
        own = net.model.state_dict()
        state = {name: value for name, value in state.items() if not name.startswith("method.")}
        state |= {name: own[name] for name in names_within(net.model, net.head)}
    elif any(name.startswith("method.") for name in state):
        raise UserError(f"{record['label']} leaves layers of its method in its student: no other row can begin with it")
    rebuilt(net, record.get("structure") or (), inputs)
    if wrong := mismatch(net.model.state_dict(), state):
        raise UserError(f"{path}: it {wrong}")
    give_weights(net.model, state)

"""What a run will do: its cells, what is done already, what does not apply and why. Nothing is trained here.

What takes long to import (timm) is imported where a net is built: a leaderboard must not wait for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from kdbench.data import Held, held_of, task_of
from kdbench.errors import UserError, first_line
from kdbench.grid.batch_parts import parts_problems
from kdbench.method.contract import NEEDS, Inapplicable, Outputs, Task
from kdbench.method.kinds import needs_classes
from kdbench.method.onnx_tools import onnx_package, onnxruntime_package
from kdbench.nets import Net, build_net, chosen_by
from kdbench.parts import names_within
from kdbench.plain import several
from kdbench.results.records import Records, is_final
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.suite.cohorts import cohorts_of
from kdbench.suite.hub_weights import check as check_hub_weights
from kdbench.suite.spec import DatasetSpec, ModelSpec, Train
from kdbench.suite.starts import teaching
from kdbench.suite.steps import check_order, made, steps_of
from kdbench.takeover import taken_from
from kdbench.train.lent import Guard
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of
from kdbench.train.probe import can_have_head
from kdbench.train.profiling import count_macs
from kdbench.train.start import check_logits, training_task
from kdbench.train.transforms import stand_ins, transformed
from kdbench.weights import fitting_weights, mismatch

# What most methods need, found out with one forward of a net that has it all; the rest is asked for by itself.
USUAL = frozenset(NEEDS) - {"attention", "queries", "keys", "values", "token_logits"}


class Fails(Exception):
    """A method's code raises on the way to training, with the reason."""


@dataclass
class Plan:
    """`inapplicable`: key -> why; `failing`: the same where a method's code raised; `todo`: what a run would train."""

    cells: list[Cell]
    records: dict[str, Record]
    inapplicable: dict[str, str]
    shapes: "Shapes"
    plugins: tuple[Path, ...] = ()
    damaged: list[str] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the suite, and of its folder in the results."""
        return self.cells[0].suite

    @cached_property
    def todo(self) -> list[Cell]:
        refused = self.inapplicable.keys() | self.failing.keys()
        return [c for c in self.cells if c.key not in refused and not is_final(self.records.get(c.key))]

    @property
    def in_words(self) -> str:
        """`3 to train and 2 to convert in 2 cohorts`"""
        converted = sum(bool(c.then) for c in self.todo)
        more = f" and {converted} to convert" if converted else ""
        return f"{len(self.todo) - converted} to train{more} in {several(len(self.cohorts), 'cohort')}"

    @property
    def cohorts(self) -> list[list[Cell]]:
        return cohorts_of(self.todo)

    @property
    def num_done(self) -> int:
        return sum(is_final(self.records.get(c.key)) for c in self.cells)


def make_plan(cells: list[Cell], results: Path, data_dir: Path, plugins: tuple[Path, ...] = ()) -> Plan:
    """The plan for `cells`, which are of one suite. Raises UserError when a model can't be built for its data set."""
    if any(cell.filed for cell in cells):  # one line now, not one for each cell later
        onnx_package()
        onnxruntime_package()
    records = Records(results, cells[0].suite)
    found = records.read_many(c.key for c in cells)
    check_hub_weights(cells, found)
    shapes = Shapes(data_dir)
    shapes.check_models(cells)
    unfinished = [c for c in cells if not is_final(found.get(c.key))]
    inapplicable, failing = shapes.refused(unfinished)
    return Plan(cells, found, inapplicable, shapes, plugins, records.damaged, failing)


class Shapes:
    """Builds every net once on the meta device: shapes without memory or arithmetic."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._tasks: dict[str, Task] = {}
        self._nets: dict[str, Net] = {}
        self._outputs: dict[tuple[str, frozenset[str]], Outputs | Exception] = {}
        self._macs: dict[str, int] = {}
        self._held: dict[str, Held] = {}

    def task(self, spec: DatasetSpec) -> Task:
        name = spec.model_dump_json()
        if name not in self._tasks:
            with Guard():
                self._tasks[name] = task_of(spec.name, spec.settings, self.data_dir)
        return self._tasks[name]

    def held(self, spec: DatasetSpec) -> Held:
        """Where its examples will lie, and how fast they come from there."""
        name = spec.model_dump_json()
        if name not in self._held:
            self._held[name] = held_of(spec.name, spec.settings, self.data_dir)
        return self._held[name]

    def training_task(self, dataset: DatasetSpec, train: Train) -> Task:
        task = self.task(dataset)
        return training_task(task, train, torch.zeros(task.num_train, dtype=torch.int64, device="meta"))

    def net(self, spec: ModelSpec, dataset: DatasetSpec) -> Net:
        name = spec.model_dump_json() + dataset.model_dump_json()
        if name not in self._nets:
            plain, task = spec.model_copy(update={"pretrained": False, "checkpoint": None}), self.task(dataset)
            with torch.device("cpu" if spec.transforms else "meta"):
                net = build_net(plain, task)
            steps, noise = steps_of(spec.transforms or ()), stand_ins(task.inputs, task.num_classes, task.kind)
            net = transformed(net, steps, task.inputs, noise).to("meta").eval()
            if spec.checkpoint and not spec.transforms:
                fitting_weights(net.model, Path(spec.checkpoint), chosen_by(net, spec))
            self._nets[name] = net
        return self._nets[name]

    def outputs(self, spec: ModelSpec, dataset: DatasetSpec, needs: Iterable[str]) -> Outputs:
        """Raises Inapplicable when the net does not have what is needed."""
        name = spec.model_dump_json() + dataset.model_dump_json()
        if (name, USUAL) not in self._outputs:
            self._outputs[name, USUAL] = self._blank(spec, dataset, USUAL)
        usual = self._outputs[name, USUAL]
        if isinstance(usual, Outputs) and USUAL.issuperset(needs):
            return usual
        place = name, frozenset(needs)
        if place not in self._outputs:
            self._outputs[place] = self._blank(spec, dataset, needs)
        found = self._outputs[place]
        if isinstance(found, Exception):
            raise found
        return found

    def _blank(self, spec: ModelSpec, dataset: DatasetSpec, needs: Iterable[str]) -> Outputs | Exception:
        try:
            with Guard():
                return blank_outputs(self.net(spec, dataset), needs, self.task(dataset), "meta")
        except Exception as error:
            return error

    def macs(self, spec: ModelSpec, dataset: DatasetSpec) -> int:
        name = spec.model_dump_json() + dataset.model_dump_json()
        if name not in self._macs:
            self._macs[name] = count_macs(self.net(spec, dataset), self.task(dataset).inputs)
        return self._macs[name]

    def check_models(self, cells: Iterable[Cell]) -> None:
        """Raises UserError with a line for every model that cannot be built or cannot take its inputs."""
        problems: dict[str, None] = {}
        checked: set[str] = set()
        for cell in cells:
            teachers = [("teacher", link.teacher_net) for link in cell.lineage]
            for role, spec in [*teachers, ("student", bare(cell.make))]:
                name = spec.model_dump_json() + cell.dataset.model_dump_json()
                if name not in checked and (problem := self.problem(f"{role} of {cell.pair}", spec, cell.dataset)):
                    problems[f"{cell.place}: {problem}"] = None
                checked.add(name)
            for problem in [*parts_problems(cell, self.task), *self.wrong_start(cell)]:
                problems[f"{cell.place}: {problem}"] = None
        if problems:
            raise UserError("\n".join(problems))

    def wrong_start(self, cell: Cell) -> list[str]:
        """Why its student can't begin with its teacher's weights; empty where it can, need not, or a net is wrong."""
        if cell.giver is None or (layers := cell.student.taken) is None:
            return []
        try:
            nets = self.net(cell.giver.teacher_net, cell.dataset), self.net(bare(cell.make), cell.dataset)
        except Exception:  # told where the net or its data are looked at
            return []
        try:
            taken_from(*nets, layers, cell.student.head is not None)
        except UserError as error:
            return [f"student of {cell.pair}: it {error}"]
        return []

    def problem(self, role: str, spec: ModelSpec, dataset: DatasetSpec) -> str:
        """Why a model can't be trained on a data set; empty when it can, or the data can't be had (see `why_not`)."""
        try:
            self.task(dataset)
        except UserError:
            raise
        except Exception:
            return ""
        try:
            check_logits(self.outputs(spec, dataset, ("logits",)), spec, self.task(dataset))
        except UserError as error:
            return f"{role}: {error}"
        except Exception as error:
            return f"{role}: {spec.short} can't take {self.task(dataset).inputs}: {first_line(error)}"
        return ""

    def why_not(self, cell: Cell) -> Inapplicable | Fails | None:
        """What ends the cell's objective (or that of its teacher) on its pair: Inapplicable, or what it raised.

        Raises UserError when a setting is wrong.
        """
        if cell.before is not None and (why := self.why_not(cell.before)) is not None:
            return type(why)(f"what it begins with can't be had: {why}" if cell.start else str(why))
        if cell.teacher_cell is not None and (why := self.why_not(cell.teacher_cell)) is not None:
            return type(why)(f"its teacher {cell.teacher.model} can't be taught: {why}")
        try:
            self.task(cell.dataset)
        except UserError:
            raise
        except Exception as error:
            return Fails(f"data set {cell.dataset.name}: {first_line(error)}")
        try:
            self.try_to_build(cell)
        except UserError:
            raise
        except Exception as error:
            return error if isinstance(error, Inapplicable) else Fails(first_line(error))
        return None

    def try_to_build(self, cell: Cell) -> None:
        """Raises Inapplicable, and whatever its methods raise."""
        if cell.adapts:
            self.check_takes_over(cell)
        with Guard():
            check_order(cell.conversions)
            for step in cell.then:
                made(step).check(self.net(cell.make, cell.dataset).model)
            built = Objective(cell.phases)
            needs_classes(self.task(cell.dataset), judged_by_classes(cell))
            if cell.evaluate.probe:
                can_have_head(self.net(cell.make, cell.dataset))
                if (stays := built.inference()) is not None:
                    raise Inapplicable(f"{stays.name} leaves layers in its student: no probe takes their place")
            student = self.outputs(cell.make, cell.dataset, student_needs_of(cell.methods))
            teacher = self.outputs(cell.teacher, cell.dataset, needs_of(cell.methods))
            with torch.device("meta"):
                built.build(student, teacher, self.training_task(cell.dataset, cell.train), 0)

    def check_takes_over(self, cell: Cell) -> None:
        """Raises UserError where the net that learns other data can't have what it learnt before: made for one size."""
        assert cell.start is not None
        new, old = (self.net(c.make, c.dataset).model.state_dict() for c in (cell, cell.start))
        net = self.net(cell.make, cell.dataset)
        kept = {name: new[name] for name in names_within(net.model, net.head)}
        if wrong := mismatch(new, {**old, **kept}):
            sizes = (str(self.task(c.dataset).inputs) for c in (cell, cell.start))
            what = f"{cell.student.short} of {cell.start.dataset.name} can't learn {cell.dataset.name} afterwards"
            remedy = "a net of your own must take inputs of both sizes, or bring them to one"
            raise UserError(f"{cell.place}: {what}: it {wrong} ({' after '.join(sizes)}); {remedy}")

    def refused(self, cells: Sequence[Cell]) -> tuple[dict[str, str], dict[str, str]]:
        """The cells that do not apply, and those whose methods' code raises: key -> why."""
        verdicts: dict[tuple[str, ...], Inapplicable | Fails | None] = {}
        inapplicable: dict[str, str] = {}
        failing: dict[str, str] = {}
        for cell in cells:
            if cell.case not in verdicts:
                verdicts[cell.case] = self.why_not(cell)
            if (why := verdicts[cell.case]) is not None:
                (inapplicable if isinstance(why, Inapplicable) else failing)[cell.key] = str(why)
        return inapplicable, failing


def judged_by_classes(cell: Cell) -> list[str]:
    """What of the cell, as a suite says it, is told of classes alone."""
    taught = any(link.teacher_is_trained for link in teaching(cell).values())
    asked = {
        "evaluate.probe": cell.evaluate.probe,
        "evaluate.neighbours": cell.evaluate.neighbours,
        "evaluate.corruptions": cell.evaluate.corruptions,
        "a teacher's num_classes": cell.teacher.num_classes is not None,
        "teacher_train.label_smoothing": taught and cell.teacher_train.label_smoothing is not None,
        "teacher_train.mixup": taught and cell.teacher_train.mixes,
    }
    return [name for name, wanted in asked.items() if wanted]


def bare(spec: ModelSpec) -> ModelSpec:
    """The net before its transforms, which may be Inapplicable; where it can't be built at all, nothing can be run."""
    return spec.model_copy(update={"transforms": None})

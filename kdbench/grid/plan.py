"""What a suite will do: its cells, what is done already, what does not apply and why. Nothing is trained here.

What takes long to import (timm) is imported where it is used: a leaderboard must not wait for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdbench.data import DATASETS, DataInfo
from kdbench.errors import UserError
from kdbench.method.contract import NEEDS, Inapplicable, Outputs, Task
from kdbench.results.records import Record, Records, is_final
from kdbench.suite.cells import Cell, cells_of, cohorts_of
from kdbench.suite.load import Suite
from kdbench.suite.spec import DatasetSpec, ModelSpec, Train
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of
from kdbench.vision.batches import load_splits

if TYPE_CHECKING:
    from kdbench.vision.nets import Net


# What most methods need, found out with one forward of a net that has it all; the rest is asked for by itself.
USUAL = frozenset(NEEDS) - {"attention", "token_logits"}


@dataclass
class Plan:
    """`inapplicable`: key -> why. `todo`: what a run would train now."""

    suite: Suite
    cells: list[Cell]
    records: dict[str, Record]
    inapplicable: dict[str, str]
    shapes: "Shapes"
    damaged: list[str] = field(default_factory=list)

    @cached_property
    def todo(self) -> list[Cell]:
        return [c for c in self.cells if c.key not in self.inapplicable and not is_final(self.records.get(c.key))]

    @property
    def cohorts(self) -> list[list[Cell]]:
        return cohorts_of(self.todo)

    @property
    def num_done(self) -> int:
        return sum(is_final(self.records.get(c.key)) for c in self.cells)

    def pictures(self) -> float:
        """Billions of multiply-adds that the run will take: a student's step is counted as 3 forwards."""
        work = 0.0
        for cohort in self.cohorts:
            first = cohort[0]
            info = self.shapes.info(first.dataset)
            seen = info.num_train * (1 - first.validation) * first.train.epochs
            students = sum(3 * self.shapes.macs(c.student, c.dataset) for c in cohort)
            work += seen * (self.shapes.macs(first.teacher, first.dataset) + students)
        return work / 1e9


def make_plan(suite: Suite, results: Path, data_dir: Path, only: str | None = None) -> Plan:
    """Raises UserError when nothing matches `only`, or when a model cannot be built for its data set."""
    cells = cells_of(suite, only)
    if not cells:
        raise UserError(f"{suite.path}: no cell matches --only {only!r}; rows are: {', '.join(suite.objectives)}")
    records = Records(results, suite.name)
    found = records.read_many(c.key for c in cells)
    shapes = Shapes(data_dir)
    places = {id(student): place for (_, student, _), place in zip(suite.pairs, suite.places, strict=True)}
    shapes.check_models((places[id(cell.student)], cell) for cell in cells)
    unfinished = [c for c in cells if not is_final(found.get(c.key))]
    return Plan(suite, cells, found, shapes.inapplicable(unfinished), shapes, records.damaged)


class Shapes:
    """Builds every net once on the meta device: shapes without memory or arithmetic."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._infos: dict[str, DataInfo] = {}
        self._nets: dict[str, Net] = {}
        self._outputs: dict[tuple[str, frozenset[str]], Outputs | Exception] = {}
        self._macs: dict[str, int] = {}

    def info(self, spec: DatasetSpec) -> DataInfo:
        name = spec.model_dump_json()
        if name not in self._infos:
            function = DATASETS[spec.name]
            if function.info is not None:
                self._infos[name] = function.info(self.data_dir, **spec.settings)
            else:
                splits = load_splits(spec.name, spec.settings, self.data_dir)
                self._infos[name] = DataInfo(splits.num_classes, splits.input_size, len(splits.train), len(splits.test))
        return self._infos[name]

    def task(self, dataset: DatasetSpec, train: Train = Train()) -> Task:  # noqa: B008  (frozen)
        from kdbench.train.optim import momentum_of

        info = self.info(dataset)
        targets = torch.zeros(info.num_train, dtype=torch.int64, device="meta")
        return Task(info.num_classes, info.num_train, info.input_size, 1, train.batch_size, targets, momentum_of(train))

    def net(self, spec: ModelSpec, dataset: DatasetSpec) -> "Net":
        from kdbench.vision.nets import build_net
        from kdbench.vision.weights import fitting_weights

        name = spec.model_dump_json() + dataset.model_dump_json()
        if name not in self._nets:
            info = self.info(dataset)
            plain = spec.model_copy(update={"pretrained": False, "checkpoint": None})
            with torch.device("meta"):
                net = build_net(plain, info.num_classes, info.input_size).to("meta").eval()
            if spec.checkpoint:
                fitting_weights(net.model, Path(spec.checkpoint))
            self._nets[name] = net
        return self._nets[name]

    def outputs(self, spec: ModelSpec, dataset: DatasetSpec, needs: Iterable[str]) -> Outputs:
        """Raises Inapplicable when the net does not have what is needed."""
        name = spec.model_dump_json() + dataset.model_dump_json()
        if (name, USUAL) not in self._outputs:
            self._outputs[name, USUAL] = self._says(spec, dataset, USUAL)
        usual = self._outputs[name, USUAL]
        if isinstance(usual, Outputs) and USUAL.issuperset(needs):
            return usual
        place = name, frozenset(needs)
        if place not in self._outputs:
            self._outputs[place] = self._says(spec, dataset, needs)
        said = self._outputs[place]
        if isinstance(said, Exception):
            raise said
        return said

    def _says(self, spec: ModelSpec, dataset: DatasetSpec, needs: Iterable[str]) -> Outputs | Exception:
        try:
            return blank_outputs(self.net(spec, dataset), needs, self.task(dataset), "meta")
        except Exception as error:
            return error

    def macs(self, spec: ModelSpec, dataset: DatasetSpec) -> int:
        from kdbench.train.profiling import count_macs

        name = spec.model_dump_json() + dataset.model_dump_json()
        if name not in self._macs:
            self._macs[name] = count_macs(self.net(spec, dataset), self.info(dataset).input_size)
        return self._macs[name]

    def check_models(self, cells: Iterable[tuple[str, Cell]]) -> None:
        """Raises UserError with a line for every model that cannot be built or cannot take its pictures.

        `cells`: each with the place in the suite where its pair stands.
        """
        problems: dict[str, None] = {}
        checked: set[str] = set()
        for place, cell in cells:
            teachers = [("teacher", link.teacher) for link in cell.lineage]
            for role, spec in [*teachers, ("student", cell.student)]:
                name = spec.model_dump_json() + cell.dataset.model_dump_json()
                if name in checked:
                    continue
                checked.add(name)
                try:
                    self.outputs(spec, cell.dataset, ("logits",))
                except UserError as error:
                    problems[f"{place}: {role} of {cell.pair}: {error}"] = None
                except Exception as error:
                    side = self.info(cell.dataset).input_size[-1]
                    first = (str(error).strip() or type(error).__name__).splitlines()[0]
                    problems[f"{place}: {role} {spec.short} can't take pictures of {side} x {side}: {first}"] = None
        if problems:
            raise UserError("\n".join(problems))

    def why_not(self, cell: Cell) -> str | None:
        """Why the cell's objective, or that of a teacher of its own, does not apply to its pair; None when it does."""
        if cell.teacher_cell is not None and (reason := self.why_not(cell.teacher_cell)) is not None:
            return f"its teacher {cell.teacher.model} can't be taught: {reason}"
        built: Any = Objective(cell.phases)
        try:
            student = self.outputs(cell.student, cell.dataset, student_needs_of(cell.methods))
            teacher = self.outputs(cell.teacher, cell.dataset, needs_of(cell.methods))
            with torch.device("meta"):
                built.build(student, teacher, self.task(cell.dataset, cell.train), 0)
        except Inapplicable as why:
            return str(why)
        return None

    def inapplicable(self, cells: Sequence[Cell]) -> dict[str, str]:
        verdicts: dict[tuple[object, ...], str | None] = {}
        found = {}
        for cell in cells:
            place = (*map(id, (cell.dataset, cell.teacher, cell.student, cell.train)), cell.label)  # the suite's own
            if place not in verdicts:
                verdicts[place] = self.why_not(cell)
            if (reason := verdicts[place]) is not None:
                found[cell.key] = reason
        return found

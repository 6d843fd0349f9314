"""Cells: what a suite asks for, each cell with the key that decides whether it is done already."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.method.register import METHODS
from kdbench.method.transform import TRANSFORMS
from kdbench.suite.adapt import adapted
from kdbench.suite.controls import CONTROLS
from kdbench.suite.crop import judged, without
from kdbench.suite.evaluation import SCORE_ALONE, Evaluate
from kdbench.suite.identity import (
    alone,
    code_of,
    data_digest,
    dataset_identity,
    dump,
    fingerprint,
    metric_code,
    model_identity,
    objective_identity,
)
from kdbench.suite.load import Suite
from kdbench.suite.models import dropping
from kdbench.suite.objectives import ObjectiveSpec, for_pair, objective
from kdbench.suite.sizes import Sizes
from kdbench.suite.spec import DatasetSpec, ModelSpec, TeacherSpec, TeacherTrain, Train, title_of
from kdbench.suite.steps import Step, made, names_of, steps_of

DATA = Path("data")  # where data sets are looked for when not told otherwise
Only = str | Sequence[str] | None  # patterns that cells are to match
NOTHING_LEARNT = dict.fromkeys(("checkpoint", "checkpoint_entry", "head", "taught_by", "objective"), None)
FORMAT = 3  # raised when the engine's own arithmetic changes a number: every key changes with it


@dataclass(frozen=True)
class Cell:
    """One number on the leaderboard."""

    suite: str
    label: str
    dataset: DatasetSpec
    teacher: TeacherSpec
    student: ModelSpec
    train: Train
    teacher_train: TeacherTrain
    phases: ObjectiveSpec
    seed: int
    validation: float
    place: str = field(default="", compare=False)  # where its pair stands in the suite, for messages
    data: str = ""  # a digest of the data; "" where the name and the settings say which they are
    control: str = ""  # what stands in its teacher's place, one of CONTROLS; "" for the teacher itself
    start: "Cell | None" = None  # whose trained student its own begins with
    evaluate: Evaluate = SCORE_ALONE  # what its student is asked beyond its score
    adapts: bool = False  # does its student, the trained one of `start`, learn other data with a new classifier?
    labels: str = ""  # "none": its training may not read them
    then: tuple[Step, ...] = ()  # conversions: it trains nothing itself, but is the file made of `before`
    filed: bool = field(default=False, compare=False)  # is it also measured as the file that is delivered?

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the number, defaults filled in, and nothing else."""
        return {
            "format": FORMAT,
            **self.data_identity,
            "teacher": self.teacher_identity,
            "student": model_identity(self.student),
            "train": dump(self.train),
            "objective": objective_identity(self.phases),
            "seed": self.seed,
            **self.evaluate.identity,
            **({"start": self.start.key} if self.start else {}),
            **({"begins": {"teacher": self.giver.teacher_key, "layers": self.student.taken}} if self.giver else {}),
            **({"then": list(self.then)} if self.then else {}),
            **({"labels": self.labels} if self.labels else {}),
            **({"adapts": self.start.dataset.name} if self.adapts and self.start else {}),
            **code_of("code", METHODS, self.methods),
            **code_of("transform_code", TRANSFORMS, names_of([*self.transforms, *self.conversions])),
        }

    @cached_property
    def transforms(self) -> tuple[Step, ...]:
        """What is done to its student before it trains."""
        return steps_of(self.student.transforms or ())

    @cached_property
    def conversions(self) -> tuple[Step, ...]:
        """What is done to its trained student: what its transforms call for, then its row's own."""
        called = [file for step in steps_of(self.make.transforms or ()) for file in made(step).files]
        return (*(step for name, settings in called for step in steps_of([{name: settings}])), *self.then)

    @cached_property
    def origin(self) -> "Cell":
        """The cell whose student is this one's before all that was done to it: what its score is a drop from."""
        if self.before is not None:
            return self.before.origin
        return replace(self, student=self.student.model_copy(update={"transforms": None})) if self.transforms else self

    @cached_property
    def make(self) -> ModelSpec:
        """The student as it is built: with the transforms of the one it begins with before its own."""
        steps = (*(self.start.make.transforms or () if self.start else ()), *(self.student.transforms or ()))
        return self.student_net.model_copy(update={"start": None, "transforms": steps or None})

    @cached_property
    def before(self) -> "Cell | None":
        """The cell that must be done first: the one that is converted, else the one to begin with."""
        return replace(self, then=(), label=f"{self.label} (before)") if self.then else self.start

    @cached_property
    def depth(self) -> int:
        """How many cells are to be done one after another before it."""
        return 1 + self.before.depth if self.before else 0

    @property
    def data_identity(self) -> dict[str, Any]:
        """Which data, and how much of them is held out."""
        digest = {"data": self.data} if self.data else {}
        code = code_of("data_code", DATASETS, [self.dataset.name]) | metric_code(self.dataset)
        return {"dataset": dataset_identity(self.dataset), **digest, **code, "validation": self.validation}

    @cached_property
    def key(self) -> str:
        return fingerprint(self.identity)

    @cached_property
    def teacher_seed(self) -> int:
        return self.seed if self.teacher_train.seed == "per_seed" else int(self.teacher_train.seed)

    @cached_property
    def teacher_net(self) -> TeacherSpec:
        """The teacher as it is built: a control has the teacher's make, but nothing that it learnt."""
        spec = self.teacher.model_copy(update={"pretrained": False, **NOTHING_LEARNT}) if self.control else self.teacher
        return dropping(spec, self.teacher_train) if self.teacher_is_trained else spec

    @cached_property
    def student_net(self) -> ModelSpec:
        """The student as it is built to be trained."""
        return dropping(self.student, self.train)

    @property
    def teacher_is_trained(self) -> bool:
        """By its recipe; else it is taken as it is, from a file or untrained. A new head on a file's net must learn."""
        learns = not self.control or CONTROLS[self.control].relabel is not None
        as_it_is = self.teacher.checkpoint is not None and self.teacher.head is None
        taken = as_it_is or self.teacher.num_classes is not None
        return learns and (bool(self.control) or not taken)

    @cached_property
    def teacher_identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"model": model_identity(self.teacher_net)}
        if self.control:
            identity |= {"control": self.control, "seed": self.teacher_seed}
        if self.teacher_is_trained:
            recipe = {k: v for k, v in dump(self.teacher_train).items() if k != "seed"}
            identity |= {"train": recipe, "seed": self.teacher_seed}
        if self.teacher_cell is not None:
            phases = objective_identity(self.teacher_cell.phases)
            identity |= {"taught_by": self.teacher_cell.teacher_identity, "objective": phases}
            identity |= code_of("code", METHODS, self.teacher_cell.methods)
        return identity

    @cached_property
    def teacher_cell(self) -> "Cell | None":
        """The training of a teacher that is itself a distilled student: a cell with the teacher in the student's place.

        None for a teacher that learns from labels or is taken as it is.
        """
        spec = self.teacher_net
        if spec.taught_by is None or spec.objective is None:
            return None
        return Cell(
            suite=self.suite,
            label=f"teacher {spec.short}",
            dataset=self.dataset,
            teacher=spec.taught_by,
            student=spec,
            train=self.teacher_train,
            teacher_train=self.teacher_train,
            phases=objective(spec.objective),
            seed=self.teacher_seed,
            validation=self.validation,
            data=self.data,
        )

    @cached_property
    def giver(self) -> "Cell | None":
        """The cell whose teacher's weights its student begins with: this one, without a control in its place."""
        return None if self.student.taken is None else replace(self, control="") if self.control else self

    @property
    def lineage(self) -> list["Cell"]:
        """This cell, and upwards those of its teachers that are distilled students."""
        return [self] if self.teacher_cell is None else [self, *self.teacher_cell.lineage]

    @cached_property
    def teacher_key(self) -> str:
        return fingerprint({"format": FORMAT, **self.data_identity, **self.teacher_identity})

    @cached_property
    def cohort(self) -> str:
        """Cells with the same cohort share data set, batches, teacher and seed."""
        batches, depth = dump(self.train.batches), {"depth": self.depth} if self.depth else {}
        return fingerprint({"teacher": self.teacher_key, "batches": batches, "seed": self.seed, **depth})

    @cached_property
    def case(self) -> tuple[str, ...]:
        """Equal for cells that differ in nothing but the seed."""
        specs = (self.dataset, self.teacher, self.student, self.train, self.teacher_train)
        texts = [spec.model_dump_json() for spec in specs]
        first = self.start.case if self.adapts and self.start else ()
        return (*texts, json.dumps([self.phases, self.then], sort_keys=True), self.control, self.labels, *first)

    @property
    def pair(self) -> str:
        return title_of(self.teacher, self.student)

    @property
    def title(self) -> str:
        return f"{self.dataset.name} · {self.pair} · {self.label} · seed {self.seed}"

    @property
    def methods(self) -> list[str]:
        return sorted({name for _, terms in self.phases for name in terms})

    @property
    def at_end(self) -> bool:
        """Is it judged once, when it is trained: by a probe?"""
        return self.evaluate.probe is not None

    @property
    def is_alone(self) -> bool:
        """Is this the student alone, against which gains are counted?"""
        if self.adapts and self.start is not None:
            return self.start.is_alone
        return not self.then and objective_identity(self.phases) in alone()


def cells_of(suite: Suite, only: Only = None, data_dir: Path = DATA, unread: bool = False) -> list[Cell]:
    """All cells in the order of the suite; with `only`, those whose title or label matches the pattern (* and ?).

    `data_dir`: where the data lie, which are part of the keys. Raises UserError when they are not as they must be;
    `unread`: then they count as not there, for they are not to be read.
    """
    digests = [data_digest(dataset, data_dir, unread) for dataset in suite.datasets]
    seeds = tuple(dict.fromkeys([*suite.seeds, *(seed for own in suite.row_seeds.values() for seed in own)]))
    cells = [
        cell
        for (dataset, data), number, seed, label in product(
            zip(suite.datasets, digests, strict=True), range(len(suite.pairs)), seeds, suite.objectives
        )
        if seed in suite.row_seeds.get(label, suite.seeds)
        if (cell := _cell(suite, number, label, dataset, data, seed)) is not None
    ]
    if suite.adapt is not None:
        how, train = suite.adapt
        data, sizes = data_digest(how.dataset, data_dir, unread), Sizes(data_dir)
        cells += [adapted(cell, how, train, data, sizes) for cell in cells if not cell.then]
    return matching(cells, only)


def _cell(suite: Suite, number: int, label: str, dataset: DatasetSpec, data: str, seed: int) -> Cell | None:
    """Of pair `number` and row `label`; None where the row is not run on the pair."""
    pair, place, start = suite.pairs[number], suite.places[number], None
    if (phases := for_pair(suite.objectives[label], title_of(*pair[:2]))) is None:
        return None
    if (other := suite.starts[number]) is not None and (row := pair[1].start_row) is not None:
        start = _cell(suite, other, row, dataset, data, seed)
        if start is None:
            raise UserError(f"{place}: row {row!r} is not run on {title_of(*suite.pairs[other][:2])}")
    teacher_train = without(suite.teacher_train)
    return Cell(
        *(suite.name, label, *judged(dataset, pair, place), teacher_train, phases, seed, suite.validation, place, data),
        control=suite.controls.get(label, ""),
        start=start,
        evaluate=suite.evaluate,
        then=suite.then.get(label, ()),
        labels=suite.labels.get(label, ""),
        filed=bool(suite.then) or any(student.transforms or student.start_row for _, student, _ in suite.pairs),
    )


def matching(cells: list[Cell], only: Only) -> list[Cell]:
    """Those whose title or label matches the pattern, or of the cohort with that key; all of them without one.

    Of several patterns each has to match.
    """
    for one in [only] if isinstance(only, str) else only or ():
        cells = [c for c in cells if fnmatchcase(c.label, one) or fnmatchcase(c.title, f"*{one}*") or c.cohort == one]
    return cells

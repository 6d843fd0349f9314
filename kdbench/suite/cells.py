"""Cells and cohorts: what a suite asks for, each cell with the key that decides whether it is done already."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from kdbench.data import DATASETS, NOT_THERE, digest_of
from kdbench.errors import UserError
from kdbench.method.register import METHODS
from kdbench.nets import NETS, digest_of_net
from kdbench.registry import Registry
from kdbench.suite.controls import CONTROLS
from kdbench.suite.load import Suite
from kdbench.suite.objectives import BASELINE, ObjectiveSpec, for_pair, objective
from kdbench.suite.spec import Batches, DatasetSpec, ModelSpec, TeacherSpec, TeacherTrain, Train, title_of

Spec = TypeVar("Spec", bound=ModelSpec)
DATA = Path("data")  # where data sets are looked for when not told otherwise
NOTHING_LEARNT = {"pretrained": False, "checkpoint": None, "taught_by": None, "objective": None}
FORMAT = 3  # raised when the engine's own arithmetic changes a number: every key changes with it


def fingerprint(identity: dict[str, Any]) -> str:
    """The first 20 hex digits of the SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


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

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the number, defaults filled in, and nothing else."""
        return {
            "format": FORMAT,
            **self.data_identity,
            "teacher": self.teacher_identity,
            "student": _model(self.student),
            "train": _dump(self.train),
            "objective": objective_identity(self.phases),
            "seed": self.seed,
            **_code("code", METHODS, self.methods),
        }

    @property
    def data_identity(self) -> dict[str, Any]:
        """Which data, and how much of them is held out."""
        digest = {"data": self.data} if self.data else {}
        code = _code("data_code", DATASETS, [self.dataset.name])
        return {"dataset": _dataset(self.dataset), **digest, **code, "validation": self.validation}

    @cached_property
    def key(self) -> str:
        return fingerprint(self.identity)

    @cached_property
    def teacher_seed(self) -> int:
        return self.seed if self.teacher_train.seed == "per_seed" else int(self.teacher_train.seed)

    @cached_property
    def teacher_net(self) -> TeacherSpec:
        """The teacher as it is built: a control has the teacher's make, but nothing that it learnt."""
        spec = self.teacher.model_copy(update=NOTHING_LEARNT) if self.control else self.teacher
        return dropping(spec, self.teacher_train) if self.teacher_is_trained else spec

    @cached_property
    def student_net(self) -> ModelSpec:
        """The student as it is built to be trained."""
        return dropping(self.student, self.train)

    @property
    def teacher_is_trained(self) -> bool:
        """By its recipe; else it is taken as it is, from a file or untrained."""
        learns = not self.control or CONTROLS[self.control].relabel is not None
        return learns and (bool(self.control) or self.teacher.checkpoint is None)

    @cached_property
    def teacher_identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"model": _model(self.teacher_net)}
        if self.control:
            identity |= {"control": self.control, "seed": self.teacher_seed}
        if self.teacher_is_trained:
            recipe = {k: v for k, v in _dump(self.teacher_train).items() if k != "seed"}
            identity |= {"train": recipe, "seed": self.teacher_seed}
        if self.teacher_cell is not None:
            phases = objective_identity(self.teacher_cell.phases)
            identity |= {"taught_by": self.teacher_cell.teacher_identity, "objective": phases}
            identity |= _code("code", METHODS, self.teacher_cell.methods)
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
        return fingerprint({"teacher": self.teacher_key, "batches": _dump(self.train.batches), "seed": self.seed})

    @cached_property
    def case(self) -> tuple[str, ...]:
        """Equal for cells that differ in nothing but the seed."""
        specs = (self.dataset, self.teacher, self.student, self.train, self.teacher_train)
        texts = [spec.model_dump_json() for spec in specs]
        return (*texts, json.dumps(self.phases, sort_keys=True), self.control)

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
    def is_alone(self) -> bool:
        """Is this the student alone, against which gains are counted?"""
        return objective_identity(self.phases) == alone()


def dropping(spec: Spec, train: Train) -> Spec:
    """The model with the recipe's stochastic depth, where it says nothing of it itself."""
    if train.drop_path is None or "drop_path_rate" in spec.options:
        return spec
    return spec.model_copy(update={"drop_path_rate": train.drop_path})


def cells_of(suite: Suite, only: str | None = None, data_dir: Path = DATA, unread: bool = False) -> list[Cell]:
    """All cells in the order of the suite; with `only`, those whose title or label matches the pattern (* and ?).

    `data_dir`: where the data lie, which are part of the keys. Raises UserError when they are not as they must be;
    `unread`: then they count as not there, for they are not to be read.
    """
    digests = [_digest(dataset, data_dir, unread) for dataset in suite.datasets]
    seeds = tuple(dict.fromkeys([*suite.seeds, *(seed for own in suite.row_seeds.values() for seed in own)]))
    cells = [
        Cell(
            *(suite.name, label, dataset, *pair, suite.teacher_train, phases, seed, suite.validation, place, data),
            control=suite.controls.get(label, ""),
        )
        for (dataset, data), (pair, place), seed, (label, choices) in product(
            zip(suite.datasets, digests, strict=True),
            zip(suite.pairs, suite.places, strict=True),
            seeds,
            suite.objectives.items(),
        )
        if seed in suite.row_seeds.get(label, suite.seeds)
        if (phases := for_pair(choices, title_of(*pair[:2]))) is not None
    ]
    return matching(cells, only)


def matching(cells: list[Cell], only: str | None) -> list[Cell]:
    """Those whose title or label matches the pattern, or of the cohort with that key; all of them without one."""
    if only is None:
        return cells
    return [c for c in cells if fnmatchcase(c.label, only) or fnmatchcase(c.title, f"*{only}*") or c.cohort == only]


def _digest(dataset: DatasetSpec, data_dir: Path, unread: bool) -> str:
    try:
        return digest_of(dataset.name, dataset.settings, data_dir)
    except UserError:
        if unread:
            return NOT_THERE
        raise


def cohorts_of(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells grouped into cohorts, in order of first appearance."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.cohort, []).append(cell)
    return list(groups.values())


def objective_identity(phases: ObjectiveSpec) -> Any:
    """As it stands in a record: a table of methods, or a list of phases. What is off (None) is left out."""
    parts = [{"epochs": epochs, "terms": _without_none(terms)} for epochs, terms in phases]
    return json.loads(json.dumps(parts if len(parts) > 1 else parts[0]["terms"]))


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """The same table, and those in it, without what is None."""
    found = {k: v for k, v in table.items() if v is not None}
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in found.items()}


def alone() -> Any:
    return _alone(METHODS.form(BASELINE))


@lru_cache(maxsize=4)
def _alone(form: type) -> Any:
    return objective_identity(objective({BASELINE: 1.0}))


@lru_cache(maxsize=4096)
def _dump_text(spec: Batches) -> str:
    return spec.model_dump_json(exclude_none=True)


def _dump(spec: Batches) -> dict[str, Any]:
    return json.loads(_dump_text(spec))


@lru_cache(maxsize=256)
def _dataset_text(spec: DatasetSpec, form: type) -> str:
    """`form`: of its settings as they are registered now, for a plugin may be edited and loaded again."""
    return json.dumps(_without_none({"name": spec.name, **spec.settings}))


def _dataset(spec: DatasetSpec) -> dict[str, Any]:
    return json.loads(_dataset_text(spec, DATASETS.form(spec.name)))


def _code(entry: str, registry: Registry[Any], names: Iterable[str]) -> dict[str, Any]:
    """{entry: name -> hash} of those whose code came in by a plugin; nothing where all are kdbench's own."""
    found = {name: code for name in names if (code := registry.code(name))}
    return {entry: found} if found else {}


def _model(spec: ModelSpec) -> dict[str, Any]:
    whole = spec.model_dump(mode="json", exclude={"taught_by", "objective"})
    identity = {k: v for k, v in whole.items() if v is not None} | _code("code", NETS, [spec.model])
    if spec.checkpoint is not None:  # what is in the file decides, not where it stands
        identity["checkpoint"] = _file_hash(spec.checkpoint)
    if files := digest_of_net(spec.model, spec.options):
        identity["files"] = files
    return identity


@lru_cache(maxsize=256)
def _file_hash(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

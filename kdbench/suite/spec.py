"""What a suite file may hold: its entries with their types, ranges and defaults."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdbench.data import DATASETS
from kdbench.layout import is_reserved
from kdbench.registry import message_of
from kdbench.suite.controls import CONTROLS
from kdbench.suite.frozen import Above0, Frozen, Seed
from kdbench.suite.steps import words
from kdbench.suite.training import Batches, Recipe, Schedule, TeacherTrain, TimmSchedule, Train
from kdbench.suite.yaml_lines import Place

__all__ = ["Batches", "Recipe", "TeacherTrain", "Train"]  # how to train has its own module


Steps = Annotated[tuple[str | dict[str, Any], ...], Field(strict=False, min_length=1)]  # by name, or with settings


class ByName(Frozen):
    """What may be given by its first entry alone, a name."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {next(iter(cls.model_fields)): value} if isinstance(value, str) else value


class StartSpec(Frozen):
    """A row whose trained student others begin with; of the pair whose student has these `transforms`."""

    label: str
    transforms: Steps | None = None

    @property
    def short(self) -> str:
        return self.label + (f" + {words(self.transforms)}" if self.transforms else "")


class ModelSpec(ByName):
    """A timm model. Whatever is not named here goes to `timm.create_model` as it stands."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    model: str
    pretrained: bool = False
    checkpoint: str | None = None
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    # Of a student: the trained one it begins with, and what is done to it before it trains (`steps.py`).
    start: StartSpec | None = Field(default=None, alias="from")
    transforms: Steps | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def short(self) -> str:
        """`resnet18`, or `cifar_resnet8(widths=[4, 8])` when options tell it from its plain form."""
        extra = {k: v for k, v in {"img_size": self.img_size, **self.options}.items() if v is not None}
        own = self.model + (f"({', '.join(f'{k}={v}' for k, v in sorted(extra.items()))})" if extra else "")
        own += f" + {words(self.transforms)}" if self.transforms else ""
        return own + (f" (from {self.start.short})" if self.start else "")


class TeacherSpec(ModelSpec):
    """A teacher. With `taught_by` it is itself a distilled student: a teacher assistant, or a born-again generation.

    `objective` is how it was taught, as a row of `methods`; it is trained with `teacher_train`, as all teachers are.
    """

    taught_by: "TeacherSpec | None" = None
    objective: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if (self.taught_by is None) != (self.objective is None):
            raise ValueError("taught_by and objective go together")
        if self.taught_by is not None and self.checkpoint is not None:
            raise ValueError("a checkpoint is taken as it is: it can't be taught_by another teacher")
        return self

    @property
    def short(self) -> str:
        """`cifar_resnet14 (taught by cifar_resnet56: 0.1 ce + 0.9 kd)`, so that tables tell teachers apart."""
        own = super().short
        if self.taught_by is None or self.objective is None:
            return own
        return f"{own} (taught by {self.taught_by.short}: {described(self.objective)})"


def described(row: dict[str, Any]) -> str:
    """A row of `methods` in a line: `0.1 ce + 0.9 kd(temperature=4)`."""
    if "phases" in row:
        return ", then ".join(described(part) for part in row["phases"])
    words = []
    for name, given in row.items():
        if name == "epochs":
            continue
        table = given if isinstance(given, dict) and "from" not in given else {"weight": given}
        settings = ", ".join(f"{k}={v}" for k, v in table.items() if k != "weight")
        words.append(f"{table.get('weight', 1)} {name}" + (f"({settings})" if settings else ""))
    return " + ".join(words) + (f" for {row['epochs']} epochs" if "epochs" in row else "")


class DatasetSpec(ByName):
    """A data set's name; the rest are its settings."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def settings(self) -> dict[str, Any]:
        return DATASETS.settings(self.name, self.model_extra or {})[0]


class Pair(Frozen):
    """A teacher, a student, and what their training differs in."""

    teacher: TeacherSpec
    student: ModelSpec
    train: dict[str, Any] = Field(default_factory=dict)

    @property
    def title(self) -> str:
        return title_of(self.teacher, self.student)


def title_of(teacher: TeacherSpec, student: ModelSpec) -> str:
    """The name of a pair, `cifar_resnet56 -> cifar_resnet20`."""
    return f"{teacher.short} -> {student.short}"


class Ramp(Frozen):
    """A number that follows a schedule over the training: `to` is reached at the share `until` of it."""

    model_config = ConfigDict(populate_by_name=True)

    start: float = Field(alias="from")
    to: float
    curve: Literal["linear", "cosine"] = "linear"
    until: Annotated[float, Field(gt=0, le=1)] = 1.0


class Common(Frozen):
    """What every term of an objective may say, whatever its method."""

    weight: Above0 = 1.0
    standardise: Literal["none", "sample", "population"] = "none"
    # The teacher's outputs with its batch norms in train mode, as some authors' code leaves them.
    teacher_norms: Literal["batch"] | None = None


class RowOptions(Frozen):
    """What a row of `methods` may say beside its methods."""

    # Of its own: rows that all others are compared with are worth more of them.
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    # A control in the place of the pair's teacher (`controls.py`).
    teacher: Literal[tuple(CONTROLS)] | None = None  # type: ignore[valid-type]
    # What is done to its trained student (`steps.py`): the row is that of the file which comes of it.
    then: Steps | None = None


class SuiteFile(Frozen):
    """The file as written; the editors' schema is made from this."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    extends: str | None = None
    plugins: Annotated[tuple[str, ...], Field(description="Python files; code that runs with your rights")] = ()
    datasets: Annotated[tuple[DatasetSpec, ...], Field(min_length=1)]
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1)]
    methods: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    reference_seeds: Annotated[
        tuple[Seed, ...],
        Field(description="of the student alone and of `kd`, which all rows are compared with; without it `seeds`"),
    ] = ()
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    train: Train
    teacher_train: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if is_reserved(name):
            raise ValueError(f"{name!r} is taken by kdbench's own folder")
        return name


def parse(model: Any, data: dict[str, Any]) -> Any:
    """`data` as a `model`; through JSON, so that strict types still take a list for a tuple."""
    return model.model_validate_json(json.dumps(data))


def mistakes(model: type[BaseModel], data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """What is wrong with `data` as a `model`, each mistake with its place below `place`."""
    try:
        model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for problem in error.errors():
            loc = tuple(part for part in problem["loc"] if part != "[key]")
            if problem["type"] != "too_short":
                yield (*place, *loc), message_of(problem, "entry", _fields_at(model, loc[:-1]))
            elif not problem["input"]:  # pydantic also counts the entries that are wrong as missing
                yield (*place, *loc), "is empty; it needs at least one entry"


def _fields_at(model: type[BaseModel], loc: Place) -> list[str]:
    """The entries that the table at `loc` may have, aliases of short forms included."""
    nested: dict[str, type[BaseModel]] = {"train": Train, "schedule": Schedule, "timm": TimmSchedule, "pairs": Pair}
    for part in reversed(loc):
        if isinstance(part, str):
            return list(nested.get(part, model).model_fields)
    return list(model.model_fields)

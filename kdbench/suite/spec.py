"""What a suite file may hold: its entries with their types, ranges and defaults."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kdbench.data import DATASETS
from kdbench.layout import is_reserved
from kdbench.registry import alternatives, message_of
from kdbench.suite.controls import CONTROLS
from kdbench.suite.evaluation import SCORE_ALONE, Evaluate
from kdbench.suite.frozen import Above0, ByName, Frozen, Seed
from kdbench.suite.models import ModelSpec, Steps, TeacherSpec, title_of
from kdbench.suite.training import Batches, Recipe, Schedule, TeacherTrain, TimmSchedule, Train
from kdbench.suite.yaml_lines import Place

__all__ = ["Batches", "ModelSpec", "Recipe", "TeacherSpec", "TeacherTrain", "Train", "title_of"]  # of other modules


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
    # Its training may read no label: reading one ends the row.
    labels: Literal["none"] | None = None


class Adapt(Frozen):
    """What every trained student learns afterwards, from labels alone: another data set."""

    dataset: DatasetSpec
    train: dict[str, Any] = Field(default_factory=dict)  # what differs from the suite's
    freeze: bool = False  # all but the new classifier


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
    evaluate: Evaluate = SCORE_ALONE
    then: Adapt | None = None
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


ELSEWHERE: dict[Any, str] = {  # what people look for in `train`, and where it is
    "temperature": "is a setting of a method: {kd: {temperature: 4}}",
    "mixup": "is an augmentation: {augment: {mixup: 0.8}}",
    "cutmix": "is an augmentation: {augment: {cutmix: 1.0}}",
    "color_jitter": "is an augmentation: {augment: {color_jitter: 0.4}}",
    "random_erasing": "is an augmentation, and is called erase: {augment: {erase: 0.25}}",
    "auto_augment": "is an augmentation: {augment: {auto_augment: imagenet}}",
    "rand_augment": "is an augmentation: {augment: {rand_augment: {magnitude: 9}}}",
    "amp": "is called precision: {precision: bf16}",
    "dropout": "is an entry of a model: {model: resnet18, drop_rate: 0.1}",
    "drop_rate": "is an entry of a model: {model: resnet18, drop_rate: 0.1}",
    "pretrained": "is an entry of a model: {model: resnet18, pretrained: true}",
    "seeds": "stands at the top of a suite",
    "validation": "stands at the top of a suite",
}


TYPE = re.compile(
    r"(literal|dict|list|tuple)\[|(float|int|str|bool)$"
)  # pydantic's place of a value that may have several
WITHIN = re.compile(r"(literal|dict|list|tuple)\[")  # the same, above an entry of the value


def mistakes(model: type[BaseModel], data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """What is wrong with `data` as a `model`, each mistake once, with its place below `place`."""
    yield from alternatives(_mistakes(model, data, place))


def _mistakes(model: type[BaseModel], data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    try:
        model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for problem in error.errors():
            loc = tuple(part for part in problem["loc"][:-1] if not WITHIN.match(str(part))) + problem["loc"][-1:]
            loc = tuple(part for part in loc if part != "[key]")
            loc = loc[:-1] if loc and TYPE.match(str(loc[-1])) else loc
            of_training = (*place, *loc)[-2:-1] in (("train",), ("teacher_train",))
            if problem["type"] == "extra_forbidden" and of_training and loc[-1] in ELSEWHERE:
                yield (*place, *loc), ELSEWHERE[loc[-1]]
            elif problem["type"] != "too_short":
                yield (*place, *loc), message_of(problem, "entry", _fields_at(model, loc[:-1]))
            elif not problem["input"]:  # pydantic also counts the entries that are wrong as missing
                yield (*place, *loc), "is empty; it needs at least one entry"


def _fields_at(model: type[BaseModel], loc: Place) -> list[str]:
    """The entries that the table at `loc` may have, aliases of short forms included."""
    nested: dict[str, type[BaseModel]]
    nested = {
        "train": Train,
        "schedule": Schedule,
        "timm": TimmSchedule,
        "evaluate": Evaluate,
        "pairs": Pair,
        "then": Adapt,
    }
    for part in reversed(loc):
        if isinstance(part, str):
            return list(nested.get(part, model).model_fields)
    return list(model.model_fields)

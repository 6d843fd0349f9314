"""What a suite may say of a net: a student's entry, a teacher's."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from kdbench.errors import unknown
from kdbench.suite.frozen import Above0, ByName, Frozen
from kdbench.suite.steps import words
from kdbench.suite.training import Train

Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


Layer = Annotated[int, Field(ge=0)]
Steps = Annotated[tuple[str | dict[str, Any], ...], Field(strict=False, min_length=1)]  # by name, or with settings


class StartSpec(Frozen):
    """What a student begins with: a row's trained student, or its teacher.

    `transforms`: of the pair whose student has these. `teacher`: which of its layers, from 0; the student has as many.
    """

    label: str | None = None
    transforms: Steps | None = None
    teacher: Literal["all"] | Annotated[tuple[Layer, ...], Field(strict=False, min_length=1)] | None = None

    @property
    def short(self) -> str:
        if isinstance(self.teacher, tuple):
            return f"layers {', '.join(map(str, self.teacher))} of the teacher"
        return (self.label or "the teacher") + (f" + {words(self.transforms)}" if self.transforms else "")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.label is None) == (self.teacher is None):
            raise ValueError("is a row's student, {label: student}, or the teacher, {teacher: all}, {teacher: [0, 2]}")
        if self.transforms and self.teacher is not None:
            raise ValueError("`transforms` are said of a row's student; a teacher has none")
        return self


class Normalisation(Frozen):
    """Mean and std of each channel that a net's inputs are normalised with; or the name of a usual one."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, strict=False)]
    std: Annotated[tuple[Above0, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in NORMALISATIONS:
            raise ValueError(unknown("normalisation", value, NORMALISATIONS))
        return NORMALISATIONS[value] if isinstance(value, str) else value


NORMALISATIONS: dict[str, dict[str, list[float]]] = {
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "half": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "clip": {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]},
    "none": {"mean": [0.0], "std": [1.0]},
}


class ModelSpec(ByName):
    """A net: timm's, torchvision's, transformers' or a plugin's. What is not named here goes to who builds it."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    model: str
    pretrained: bool = False
    checkpoint: str | None = None
    checkpoint_entry: str | None = None  # which table of weights, where the file has several: `model_ema`
    head: Literal["new"] | None = None  # the classifier is not the checkpoint's: for other classes
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    normalise: Normalisation | None = None  # instead of the net's own
    feature_modules: Names | None = None  # whose outputs are the feature maps
    num_classes: Annotated[int, Field(ge=0)] | None = None  # of a teacher of other classes; 0: none
    freeze: Names | None = None  # modules; `backbone`: all but the head
    # Of a student: the trained one it begins with or its teacher, and what is done to it before it trains (`steps.py`).
    start: StartSpec | None = Field(default=None, alias="from")
    transforms: Steps | None = None

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def start_row(self) -> str | None:
        """The row whose trained student it begins with."""
        return self.start.label if self.start is not None else None

    @property
    def taken(self) -> Literal["all"] | list[int] | None:
        """Which layers of its teacher a student begins with; None where with none."""
        chosen = self.start.teacher if self.start is not None else None
        return [*chosen] if isinstance(chosen, tuple) else chosen

    @property
    def short(self) -> str:
        """`resnet18`, or `cifar_resnet8(widths=[4, 8])` when options tell it from its plain form."""
        extra = {k: v for k, v in {"img_size": self.img_size, **self.options}.items() if v is not None}
        extra |= {k: v for k, v in {"head": self.head, "num_classes": self.num_classes}.items() if v is not None}
        extra |= {"freeze": "+".join(self.freeze)} if self.freeze else {}
        own = self.model + (f"({', '.join(f'{k}={v}' for k, v in sorted(extra.items()))})" if extra else "")
        own += f" + {words(self.transforms)}" if self.transforms else ""
        return own + (f" (from {self.start.short})" if self.start else "")

    @model_validator(mode="after")
    def _of_a_checkpoint(self) -> Self:
        if self.taken is not None and (self.pretrained or self.checkpoint is not None):
            raise ValueError("begins with its teacher's weights: leave `pretrained` and `checkpoint` out")
        if self.checkpoint_entry is not None and self.checkpoint is None:
            raise ValueError("checkpoint_entry is said of a checkpoint; there is none")
        if self.head is not None and self.checkpoint is None and self.taken is None:
            raise ValueError("head is said of a checkpoint; there is none")
        return self


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


def title_of(teacher: TeacherSpec, student: ModelSpec) -> str:
    """The name of a pair, `cifar_resnet56 -> cifar_resnet20`."""
    return f"{teacher.short} -> {student.short}"


Spec = TypeVar("Spec", bound=ModelSpec)


def dropping(spec: Spec, train: Train) -> Spec:
    """The model with the recipe's stochastic depth, where it says nothing of it itself."""
    if train.drop_path is None or "drop_path_rate" in spec.options:
        return spec
    return spec.model_copy(update={"drop_path_rate": train.drop_path})

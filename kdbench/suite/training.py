"""How to train: the entries of a suite's `train`. A setting that is off is None, and None is not in a key."""

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from kdbench.suite.frozen import Above0, Between, Count, Frozen, Number, Seed


def plain(value: Any) -> Any:
    """Tables without what is None; 1.0 is written 1."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


class TimmSchedule(Frozen):
    """One of timm's, with timm's names and (but for `warmup_epochs`, which is `train`'s) its defaults.

    Left out: `plateau`, which looks at a score, and noise.
    """

    name: Literal["cosine", "tanh", "step", "multistep", "poly"]
    min_lr: Number = 0.0
    warmup_lr: Number = 1e-5
    warmup_prefix: bool = False  # is the warm-up before the schedule, and not its beginning?
    decay_epochs: Above0 = 90.0
    # Epochs counted from 1, as timm does: [30] has the lower rate from the 30th epoch on, `step: [30]` from the 31st.
    decay_milestones: Annotated[tuple[Count, ...], Field(strict=False)] = (90, 180, 270)
    decay_rate: Above0 = 0.1  # the power of `poly`
    cycle_mul: Above0 = 1.0
    cycle_decay: Above0 = 0.1
    cycle_limit: Count = 1
    k_decay: Above0 = 1.0
    step_on_epochs: bool = True  # the rate is one for a whole epoch; else it changes at every step


class Schedule(Frozen):
    """`cosine` (to 0, every step), `constant`, `{step: [150, 180, 210], gamma: 0.1}` (epochs), or one of timm's:
    `{timm: cosine, min_lr: 1.0e-5, warmup_lr: 1.0e-6}`.
    """

    kind: Literal["cosine", "constant", "step", "timm"] = "cosine"
    step: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    timm: TimmSchedule | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and isinstance(value.get("timm"), str):
            return {"kind": "timm", "timm": {"name": value["timm"], **{k: v for k, v in value.items() if k != "timm"}}}
        return {"kind": "step", **value} if isinstance(value, dict) and "step" in value else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "timm") != (self.timm is not None):
            raise ValueError("timm's schedules are given by name: {timm: cosine, min_lr: 1.0e-5}")
        return self


class Batches(Frozen):
    """What the members of a cohort share: the batches, and the arithmetic of the teacher's forward."""

    epochs: Count = 240
    batch_size: Annotated[int, Field(ge=2)] = 64
    augment: str | dict[str, Any] = "crop_flip"  # a word of the data set's, or a table (`register_dataset`)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16: with scaled gradients, on a GPU alone
    label_smoothing: Between | None = None  # this share of every label is spread over all classes

    @field_validator("augment")
    @classmethod
    def _one_spelling(cls, value: Any) -> Any:
        """What is off is not there, and 1.0 is 1: a key must not depend on how a table is written."""
        return value if isinstance(value, str) else plain(value)

    def __hash__(self) -> int:  # a table of augmentations has none
        return hash(self.model_dump_json())

    @property
    def mixes(self) -> bool:
        """Are inputs mixed with one another?"""
        return isinstance(self.augment, dict) and bool({"mixup", "cutmix"} & self.augment.keys())


class Recipe(Frozen):
    """What each member has for itself. The optimizer's settings hold for adapters too, as in the CRD benchmark."""

    optimizer: str = "sgd"  # `sgd` and `adamw` are torch's; any other is timm's of that name
    lr: Above0 = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Number = 5e-4
    no_decay: Literal["norms_and_biases"] | None = None  # what weight decay spares; None: nothing, as the CRD benchmark
    schedule: Schedule = Schedule()
    warmup_epochs: Number = 0.0
    clip_grad: Above0 | None = None
    betas: Annotated[tuple[Number, ...], Field(min_length=2, max_length=3, strict=False)] | None = None
    eps: Above0 | None = None
    # A layer's rate is this times that of the layer after it (timm's rule); the head and adapters have the whole.
    layer_decay: Between | None = None
    accumulate: Annotated[int, Field(ge=2)] | None = None  # batches whose gradients make one optimizer step
    ema: Between | None = None  # decay of the moving average of the weights, which is then what is delivered
    ema_warmup: Literal[True] | None = None  # the decay rises with the steps: 1 - (1 + step)^(-2/3) until it is `ema`
    # The net's batch norms see the batch in so many equal parts, as if each lay on a device of its own; None: whole.
    norm_parts: Annotated[int, Field(ge=2)] | None = None
    drop_path: Between | None = None  # stochastic depth: the student's `drop_path_rate`


class Train(Recipe, Batches):
    """How a student is trained: a suite's `train`."""

    # How examples are cut where nets are judged (`crop.py`); whose own, or as the data set's setting of that name.
    test_crop: Literal["teacher", "student"] | float | dict[str, Any] | None = None

    __hash__ = Batches.__hash__

    @property
    def batches(self) -> Batches:
        return Batches.model_construct(**{name: getattr(self, name) for name in Batches.model_fields})

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ema_warmup and self.ema is None:
            raise ValueError("ema_warmup is of a moving average; give its decay as `ema`")
        if self.norm_parts and self.batch_size < 2 * self.norm_parts:
            raise ValueError(
                f"norm_parts: {self.norm_parts} parts of a batch of {self.batch_size} have less than two each"
            )
        if self.epochs == 0:
            return self
        steps = self.schedule.step
        if any(a >= b for a, b in pairwise(steps)) or (steps and steps[-1] >= self.epochs):
            raise ValueError(f"schedule.step must rise and stay below epochs ({self.epochs})")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs})")
        return self


class FurtherTrain(Train):
    """The same of students that begin with trained ones. `epochs: 0`: they are what was done to them, and no more."""

    epochs: Annotated[int, Field(ge=0)] = 240


def train_of(student: Any) -> type[Train]:
    """The form of the `train` of a pair with such a student, as a suite gives it."""
    return FurtherTrain if isinstance(student, dict) and student.get("from") else Train


class TeacherTrain(Train):
    """As `train`, unless said otherwise. `seed`: one teacher for all cells (the field's custom), or one `per_seed`.

    `epochs: 0` takes a pretrained teacher as it is.
    """

    epochs: Annotated[int, Field(ge=0)] = 240
    seed: Seed | Literal["per_seed"] = 0

"""What a record is: one judgement for every way in. What passes may be shown, averaged and written in every form."""

import re
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # typing's own is too old for pydantic before Python 3.12

from kdbench.data import NOT_THERE
from kdbench.errors import UserError
from kdbench.method.metric import metric_of
from kdbench.plain import harmless
from kdbench.suite.cells import fingerprint

LARGEST = 1e39  # every float32 is below it; sums and squares of such numbers stay finite
DIGESTS = "digests"  # the entry of a record
MOST_REASON = 2000  # characters of a reason that are kept
SHARES = ("top1", "f1", "top5", "agreement", "accuracy")  # scores and curves whose names end so are percentages

Float = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Int = Annotated[int, Field(ge=-(2**53), le=2**53)]  # what a float holds exactly
Number = Int | Float | None
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None
Count = Annotated[int, Field(ge=0, le=2**53)]
Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9_./-]+$")]
Text = Annotated[str, Field(max_length=10_000)]
Few = Field(max_length=200)


@with_config(ConfigDict(extra="allow", strict=True))
class Versions(TypedDict, total=False):
    """What made the number."""

    python: Text | None
    kdbench: Text | None
    torch: Text | None
    timm: Text | None
    torchvision: Text | None
    numpy: Text | None
    commit: Text | None
    device: Text | None
    kind: Text | None
    onednn: Text | None
    host: Text | None
    threads: Count | None
    method_files: Annotated[dict[Text, Text], Few] | None


@with_config(ConfigDict(extra="allow", strict=True))
class Digests(TypedDict, total=False):
    """Of the nets' weights, and of the member's state before the first step and after every epoch."""

    states: list[Text]
    student: Text
    teacher: Text


@with_config(ConfigDict(extra="forbid", strict=True))
class OneInput(TypedDict):
    """A `Field` of `method.contract`."""

    name: Text
    shape: Annotated[list[Count], Few]
    dtype: NotRequired[Name]
    low: NotRequired[Number]
    high: NotRequired[Number]


@with_config(ConfigDict(extra="allow", strict=True))
class Inputs(TypedDict):
    """An `InputSpec` of `method.contract`: what the student takes."""

    fields: Annotated[list[OneInput], Few]
    about: Text
    others: NotRequired[Annotated[list[dict[str, Any]], Few]]


@with_config(ConfigDict(extra="allow", strict=True))
class Shape(TypedDict):
    """What tables are made from, and its types; a file that is otherwise is no record."""

    key: Text
    suite: Text
    dataset: Text
    teacher: Text
    student: Text
    label: Text
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    status: Literal["done", "diverged", "failed", "skipped"]
    scores: Annotated[dict[Name, Number], Few]
    settings: dict[str, Any]
    reason: NotRequired[str | None]
    finished: NotRequired[Text | None]
    curves: NotRequired[dict[Text, list[Float | None]] | None]  # most of a file: a choice of types takes twice as long
    profile: NotRequired[Annotated[dict[Name, Annotated[dict[Name, Number], Few]], Few] | None]
    cost: NotRequired[Annotated[dict[Name, Number], Few] | None]
    versions: NotRequired[Versions | None]
    delivered: NotRequired[dict[Text, Text] | None]  # of a converted student: its form and SHA-256
    structure: NotRequired[
        Annotated[list[dict[str, Any]], Few] | None
    ]  # the student's transforms, and what each decided
    hub_weights: NotRequired[Annotated[dict[Text, Text], Few] | None]
    led_around: NotRequired[Text | None]
    repeatable: NotRequired[bool | None]
    digests: NotRequired[Digests]
    seal: NotRequired[Text]
    metric: NotRequired[Name | None]  # None: top-1
    kind: NotRequired[Literal["classes", "numbers"] | None]  # of its targets; None: classes
    inputs: NotRequired[Inputs]
    num_classes: NotRequired[Count | None]
    num_train: NotRequired[Count | None]
    num_test: NotRequired[Count | None]
    classes: NotRequired[list[Text] | None]
    test_top1_per_class: NotRequired[list[Percent] | None]


RECORD: TypeAdapter[Any] = TypeAdapter(Shape)  # reads and checks in less time than json.loads reads
Record = dict[str, Any]


def judged(content: bytes, key: str | None = None) -> Record:
    """The record in `content`. `key`: that of the cell which it must be of, where that is known.

    Raises UserError that says what is wrong with it.
    """
    try:
        record: Record = RECORD.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        what = "can't be read" if first["type"] == "json_invalid" else "is no record"
        raise UserError(f"{what} ({harmless(f'{place}: ' * bool(place) + first['msg'])})") from error
    if wrong := mistake_in(record, key):
        raise UserError(wrong)
    record["reason"] = harmless(record.get("reason") or "", MOST_REASON)
    return record


def mistake_in(record: Record, key: str | None) -> str:
    """What can't be told by types; empty when all is well."""
    scores, done = record["scores"], record["status"] == "done"
    if key is not None and record["key"] != key:
        return "is that of another cell"
    try:
        true_key = fingerprint(record["settings"])
    except (ValueError, RecursionError):
        true_key = ""
    if true_key != record["key"]:
        return "is not of the settings that it tells: they make another key"
    if done and record["settings"].get("data") == NOT_THERE:
        return "was made before its data were known"
    if done and scores.get(metric_of(record).test) is None:
        return "is done without a score"
    curves = record.get("curves") or {}
    values = [(name, value) for name, value in scores.items()]
    values += [(name, bound) for name, curve in curves.items() for bound in _ends(name, curve)]
    for name, value in values:
        if _is_share(name) and value is not None and not 0 <= value <= 100:
            return f"has {harmless(name)} = {value:g}, which is no percentage"
    count = record.get("num_classes")
    for name in ("test_top1_per_class", "classes"):
        if record.get(name) and count is not None and len(record[name]) != count:
            return f"has {len(record[name])} entries in {name} for {count} classes"
    return ""


@lru_cache(maxsize=1024)  # most records have scores of the same names
def _is_share(name: str) -> bool:
    return re.sub("_(best|chosen|delivered)$", "", name).endswith(SHARES)


def _ends(name: str, curve: list[Any]) -> list[Any]:
    """The smallest and the largest value of a curve of percentages."""
    known = [value for value in curve if value is not None] if name.endswith(SHARES) else []
    return [min(known), max(known)] if known else []

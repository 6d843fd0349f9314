"""A suite file: YAML -> checked, frozen `Suite`.

Everything that can be wrong is looked for before anything is built, and all mistakes are told at once, each with its
file, line and place. What a cell's number depends on is decided here; how cells are keyed is in `cells.py`.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdbench.data.splits import AUGMENTS
from kdbench.errors import UserError, unknown
from kdbench.method import Method, is_rule
from kdbench.registry import DATASETS, METHODS, load_methods, load_plugin, plain
from kdbench.yaml_lines import Document, Place, read_yaml

Number = Annotated[float, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Schedule(Frozen):
    """`cosine` (to 0, every step), `constant`, or `{step: [150, 180, 210], gamma: 0.1}` (epochs)."""

    kind: Literal["cosine", "constant", "step"] = "cosine"
    step: Annotated[tuple[Count, ...], Field(strict=False)] = ()
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        return {"kind": "step", **value} if isinstance(value, dict) and "step" in value else value


class Train(Frozen):
    """How a student is trained. The optimizer's settings hold for the adapters too, as in the CRD benchmark."""

    epochs: Count = 240
    batch_size: Annotated[int, Field(ge=2)] = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Above0 = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: Number = 5e-4
    schedule: Schedule = Schedule()
    warmup_epochs: Number = 0.0
    clip_grad: Above0 | None = None
    augment: Literal[AUGMENTS] = "crop_flip"  # type: ignore[valid-type]
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.epochs == 0:
            return self
        steps = self.schedule.step
        if any(a >= b for a, b in pairwise(steps)) or (steps and steps[-1] >= self.epochs):
            raise ValueError(f"schedule.step must rise and stay below epochs ({self.epochs})")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs ({self.epochs})")
        return self


class TeacherTrain(Train):
    """As `train`, unless said otherwise. `seed`: one teacher for all cells (the field's custom), or one `per_seed`.

    `epochs: 0` takes a pretrained teacher as it is.
    """

    epochs: Annotated[int, Field(ge=0)] = 240
    seed: Seed | Literal["per_seed"] = 0


class ModelSpec(Frozen):
    """A timm model. Whatever is not named here goes to `timm.create_model` as it stands."""

    model_config = ConfigDict(extra="allow")

    model: str
    pretrained: bool = False
    checkpoint: str | None = None
    img_size: Annotated[int, Field(ge=8, le=1024)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def short(self) -> str:
        """`resnet18`, or `cifar_resnet8(widths=[4, 8])` when options tell it from its plain form."""
        extra = {k: v for k, v in {"img_size": self.img_size, **self.options}.items() if v is not None}
        return self.model + (f"({', '.join(f'{k}={v}' for k, v in sorted(extra.items()))})" if extra else "")


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


class DatasetSpec(Frozen):
    """A data set's name; the rest are its settings."""

    model_config = ConfigDict(extra="allow")

    name: str

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def settings(self) -> dict[str, Any]:
        return DATASETS.settings(self.name, self.model_extra or {})[0]


class Pair(Frozen):
    """A teacher, a student, and what their training differs in."""

    teacher: TeacherSpec
    student: ModelSpec
    train: dict[str, Any] = {}


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


class SuiteFile(Frozen):
    """The file as written; the editors' schema is made from this."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    extends: str | None = None
    plugins: tuple[str, ...] = ()
    datasets: Annotated[tuple[DatasetSpec, ...], Field(min_length=1)]
    pairs: Annotated[tuple[Pair, ...], Field(min_length=1)]
    methods: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    train: Train
    teacher_train: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if name in ("teachers", "published", "profiles"):
            raise ValueError(f"{name!r} is taken by kdbench's own folder")
        return name


Terms = dict[str, dict[str, Any]]  # method -> {"weight": w, "standardise": ..., every setting}
Phase = tuple[int | None, Terms]  # for so many epochs; the last phase (usually the only one) for all that are left
Phases = tuple[Phase, ...]


@dataclass(frozen=True)
class Suite:
    """A checked suite. `objectives`: a row's label and its weighted methods, every setting filled in."""

    path: Path
    name: str
    datasets: tuple[DatasetSpec, ...]
    pairs: tuple[tuple[TeacherSpec, ModelSpec, Train], ...]
    objectives: dict[str, Phases]
    seeds: tuple[int, ...]
    validation: float
    teacher_train: TeacherTrain


def load_suite(path: Path | str, plugins: tuple[Path, ...] = ()) -> Suite:
    """Read and check a suite. Raises UserError with one line per mistake."""
    document = read_with_bases(Path(path))
    load_methods()
    problems = _load_plugins(document, plugins)
    problems += list(_check(document))
    if problems:
        lines = dict.fromkeys(f"{document.where(place)}: {text}" for place, text in problems)
        raise UserError("\n".join(sorted(lines, key=_line_order)))
    file = SuiteFile.model_validate_json(json.dumps(document.data))
    train = document.data["train"]
    return Suite(
        path=Path(path),
        name=file.name,
        datasets=file.datasets,
        pairs=tuple((p.teacher, p.student, _parse(Train, {**train, **p.train})) for p in file.pairs),
        objectives={label: objective(terms) for label, terms in file.methods.items()},
        seeds=file.seeds,
        validation=file.validation,
        teacher_train=_parse(TeacherTrain, {**train, **file.teacher_train}),
    )


def objective(row: dict[str, Any]) -> Phases:
    """A row of `methods` with every setting filled in.

    `{kd: 0.9}` or `{kd: {weight: 0.9, temperature: 4}}`, or `{phases: [{epochs: 30, fitnet: 100}, {kd: 1}]}`.
    """
    if "phases" not in row:
        return ((None, _terms(row)),)
    parts = [dict(part) for part in row["phases"]]
    return tuple((part.pop("epochs", None), _terms(part)) for part in parts)


def _terms(terms: dict[str, Any]) -> Terms:
    return {name: fill(name, terms[name])[0] for name in sorted(terms)}


def fill(name: str, given: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Every setting of one term, the engine's own (`weight`, `standardise`) included, and the mistakes in it.

    A number may be a ramp over the training: `{from: 8, to: 2, curve: linear, until: 1.0}`.
    """
    table = dict(given) if isinstance(given, dict) and "from" not in given else {"weight": given}
    ramps: dict[str, dict[str, Any]] = {}
    problems = []
    for setting, value in table.items():
        if isinstance(value, dict) and "from" in value:
            wrong = list(_mistakes(Ramp, value, ()))
            problems += [(setting, " ".join(filter(None, [".".join(map(str, loc)), text]))) for loc, text in wrong]
            if not wrong:
                ramps[setting] = _parse(Ramp, value).model_dump(by_alias=True)
    ends = [{**table, **{setting: ramp[end] for setting, ramp in ramps.items()}} for end in ("from", "to")]
    filled: dict[str, Any] = {}
    for end in ends if ramps else ends[:1]:
        if not any(isinstance(v, dict) for v in end.values()):
            common = {k: end[k] for k in ("weight", "standardise") if k in end}
            wrong_common = [(str(loc[0]), text) for loc, text in _mistakes(Common, common, ())]
            own, wrong_settings = METHODS.settings(name, {k: v for k, v in end.items() if k not in common})
            problems += wrong_common + wrong_settings
            filled = filled or ({} if problems else {**_parse(Common, common).model_dump(), **own})
        elif not problems:
            bad = next(k for k, v in end.items() if isinstance(v, dict))
            problems.append((bad, "a table here must be a schedule: {from: 8, to: 2, curve: linear}"))
    if is_rule(METHODS[name]) and filled.get("weight", 1.0) != 1.0:
        problems.append(("weight", f"{name} is a rule on gradients: it has no loss, so no weight but 1"))
    if filled.get("standardise", "none") != "none" and "logits" not in METHODS[name].needs:
        problems.append(("standardise", f"{name} does not read the teacher's logits"))
    return {**filled, **ramps}, list(dict.fromkeys(problems))


def _parse(model: Any, data: dict[str, Any]) -> Any:
    return model.model_validate_json(json.dumps(data))


# --- reading ---------------------------------------------------------------------------------------------------------


def read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """The document with what it `extends` merged below it: tables are merged, all else (and each row) is replaced."""
    document = read_yaml(path)
    base_name = document.data.get("extends")
    if isinstance(base_name, str):
        base_path = path.parent / base_name
        if base_path.resolve() in (*seen, path.resolve()):
            raise UserError(f"{document.where(('extends',))}: {base_name} extends itself")
        if not base_path.is_file():
            raise UserError(f"{document.where(('extends',))}: no such file: {base_path}")
        base = read_with_bases(base_path, (*seen, path.resolve()))
        document.data = _merge(base.data, document.data)
        document.lines = {**base.lines, **document.lines}
    return document


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    for name in ("train", "teacher_train", "methods"):
        if isinstance(base.get(name), dict) and isinstance(over.get(name), dict):
            both = {**base[name], **over[name]}
            merged[name] = {k: v for k, v in both.items() if v is not None or k not in base[name]}  # null drops a row
    return merged


def _load_plugins(document: Document, plugins: tuple[Path, ...]) -> list[tuple[Place, str]]:
    problems: list[tuple[Place, str]] = []
    listed = document.data.get("plugins")
    for number, name in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(name, str):
            try:
                load_plugin(document.lines["plugins", number][0].parent / name)
            except UserError as error:
                problems.append((("plugins", number), str(error)))
    for path in plugins:
        load_plugin(path)
    return problems


def _line_order(line: str) -> tuple[str, int]:
    match = re.match(r"(.*?):(\d+):", line)
    return (match[1], int(match[2])) if match else (line, 0)


# --- checking --------------------------------------------------------------------------------------------------------


def _check(document: Document) -> Iterator[tuple[Place, str]]:
    """All mistakes: those of shape and type, then those of names and settings on whatever has the right shape."""
    data = document.data
    yield from _mistakes(SuiteFile, data, ())
    train = data.get("train") if isinstance(data.get("train"), dict) else {}
    assert isinstance(train, dict)
    train_is_right = not list(_mistakes(Train, train, ()))
    if isinstance(data.get("teacher_train"), dict) and train_is_right:
        yield from _mistakes(TeacherTrain, {**train, **data["teacher_train"]}, ("teacher_train",))
    for number, pair in enumerate(_list(data, "pairs")):
        if not isinstance(pair, dict):
            continue
        if isinstance(pair.get("train"), dict) and train_is_right:
            yield from _mistakes(Train, {**train, **pair["train"]}, ("pairs", number, "train"))
        yield from _check_teacher(document, pair.get("teacher"), ("pairs", number, "teacher"))
        yield from _check_model(document, pair.get("student"), ("pairs", number, "student"))
    for number, dataset in enumerate(_list(data, "datasets")):
        yield from _check_dataset(dataset, ("datasets", number))
    yield from _check_objectives(data)
    for name in ("datasets", "pairs", "seeds"):
        texts = [json.dumps(entry, sort_keys=True) for entry in _list(data, name)]
        for number, text in enumerate(texts):
            if text in texts[:number]:
                yield (name, number), f"stands here twice (also as {name}[{texts.index(text)}])"


def _mistakes(model: type[BaseModel], data: Any, place: Place) -> Iterator[tuple[Place, str]]:
    try:
        model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for problem in error.errors():
            loc = tuple(part for part in problem["loc"] if part != "[key]")
            if problem["type"] == "extra_forbidden":
                owner = _fields_at(model, loc[:-1])
                yield (*place, *loc), unknown("entry", loc[-1], owner)
            elif problem["type"] == "missing":
                yield (*place, *loc), "is missing"
            elif problem["type"] == "string_pattern_mismatch":
                yield (*place, *loc), f"must be a plain file name (letters, digits, . _ -), not {problem['input']!r}"
            elif problem["type"] == "too_short":
                yield (*place, *loc), "is empty; it needs at least one entry"
            else:
                yield (*place, *loc), plain(problem)


def _fields_at(model: type[BaseModel], loc: Place) -> list[str]:
    """The entries that the table at `loc` may have, aliases of short forms included."""
    nested: dict[str, type[BaseModel]] = {"train": Train, "schedule": Schedule, "pairs": Pair}
    for part in reversed(loc):
        if isinstance(part, str):
            return list(nested.get(part, model).model_fields)
    return list(model.model_fields)


def _list(data: dict[str, Any], name: str) -> list[Any]:
    return data[name] if isinstance(data.get(name), list) else []


def _check_teacher(document: Document, spec: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """A teacher, and upwards those who taught it."""
    yield from _check_model(document, spec, place, TeacherSpec)
    if not isinstance(spec, dict):
        return
    if spec.get("taught_by") is not None:
        yield from _check_teacher(document, spec["taught_by"], (*place, "taught_by"))
    if isinstance(spec.get("objective"), dict):
        epochs = _epochs(document.data, "teacher_train", "train")
        if epochs == 0:
            yield place, "with teacher_train.epochs: 0 nothing can be taught"
        wrong = list(_check_row(spec["objective"], (*place, "objective"), epochs, "teacher_train"))
        yield from wrong
        methods = [] if wrong else sorted({name for _, terms in objective(spec["objective"]) for name in terms})
        for name in methods:
            if METHODS[name].infer is not Method.infer:
                yield (*place, "objective"), f"{name}'s adapter stays at inference; a teacher must be a plain net"


def _epochs(data: dict[str, Any], *tables: str) -> int | None:
    """The epochs that the first of `tables` to say so gives; None when they make no sense."""
    given = [data[name]["epochs"] for name in tables if isinstance(data.get(name), dict) and "epochs" in data[name]]
    epochs = given[0] if given else Train().epochs
    return epochs if isinstance(epochs, int) else None


def _check_model(
    document: Document, spec: Any, place: Place, kind: type[ModelSpec] = ModelSpec
) -> Iterator[tuple[Place, str]]:
    from kdbench.models import known_models

    name = spec.get("model") if isinstance(spec, dict) else spec
    for option in spec if isinstance(spec, dict) else ():
        if kind is ModelSpec and option in ("taught_by", "objective"):
            yield (*place, option), "only a teacher can be taught"
        elif option not in kind.model_fields and get_close_matches(option, kind.model_fields, n=1, cutoff=0.86):
            yield (*place, option), unknown("entry", option, kind.model_fields)
    if isinstance(name, str) and name.split(".")[0] not in known_models():
        yield place, unknown("model", name, known_models())
    checkpoint = spec.get("checkpoint") if isinstance(spec, dict) else None
    if isinstance(checkpoint, str):
        path = document.lines.get((*place, "checkpoint"), (document.path, 0))[0].parent / checkpoint
        if not path.is_file():
            yield (*place, "checkpoint"), f"no such file: {path}"
        spec["checkpoint"] = str(path)  # from here on as seen from where kdbench runs


def _check_dataset(spec: Any, place: Place) -> Iterator[tuple[Place, str]]:
    name = spec.get("name") if isinstance(spec, dict) else spec
    if not isinstance(name, str):
        return
    if name not in DATASETS:
        yield place, unknown("data set", name, DATASETS)
    elif isinstance(spec, dict):
        settings = {k: v for k, v in spec.items() if k != "name"}
        for setting, text in DATASETS.settings(name, settings)[1]:
            yield (*place, setting), text
    else:
        for setting, text in DATASETS.settings(name, {})[1]:
            yield place, f"{setting}: {text}"


def _check_objectives(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    rows = data.get("methods")
    if not isinstance(rows, dict):
        return
    seen: dict[str, str] = {}
    for label, row in rows.items():
        place: Place = ("methods", label)
        if not label.strip() or "|" in label or not label.isprintable():
            yield place, "a row's label must be some printable text without '|'"
        if not isinstance(row, dict):
            continue
        wrong = list(_check_row(row, place, _epochs(data, "train"), "train"))
        yield from wrong
        if not wrong:
            text = json.dumps(objective(row), sort_keys=True)
            if text in seen:
                yield place, f"is the same objective as {seen[text]!r}"
            seen.setdefault(text, label)


def _check_row(row: dict[str, Any], place: Place, epochs: int | None, train: str) -> Iterator[tuple[Place, str]]:
    """An objective; `epochs` of the table `train` are all that its phases have."""
    yield from _check_phases(row, place, epochs, train) if "phases" in row else _check_terms(row, place)


def _check_phases(row: dict[str, Any], place: Place, total: int | None, train: str) -> Iterator[tuple[Place, str]]:
    phases = row["phases"]
    if len(row) > 1 or not isinstance(phases, list) or not all(isinstance(part, dict) for part in phases) or not phases:
        example = "{phases: [{epochs: 30, fitnet: 100}, {kd: 1}]}"
        yield place, f"phases must be a list of objectives and stand alone: {example}"
        return
    for number, part in enumerate(phases):
        last = number == len(phases) - 1
        epochs = part.get("epochs")
        if last and epochs is not None:
            yield (*place, "phases", number), "the last phase takes the epochs that are left; leave `epochs` out"
        elif not last and (not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1):
            yield (*place, "phases", number), f"needs `epochs`, a whole number above 0, not {epochs!r}"
        yield from _check_terms({k: v for k, v in part.items() if k != "epochs"}, (*place, "phases", number))
    lengths = [part.get("epochs") for part in phases[:-1]]
    if total is not None and all(isinstance(n, int) for n in lengths) and sum(lengths) >= total:
        yield place, f"its first phases take {sum(lengths)} epochs; {train}.epochs is {total}"


def _check_terms(terms: dict[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    if not terms:
        yield place, "an objective needs at least one method"
    for name, value in terms.items():
        if name not in METHODS:
            yield (*place, name), unknown("method", name, METHODS)
            continue
        for setting, text in fill(name, value)[1]:
            yield ((*place, name, setting) if isinstance(value, dict) else (*place, name)), text
    rules = [name for name in terms if name in METHODS and is_rule(METHODS[name])]
    if rules and len(rules) == len(terms):
        yield place, f"{rules[0]} is a rule on gradients; the objective needs a loss too"
    if len(rules) > 1:
        yield place, f"takes one rule on gradients, not {' and '.join(rules)}"


# --- the editors' schema ---------------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """JSON schema of a suite file, with every registered method's settings."""
    load_methods()
    root = SuiteFile.model_json_schema()
    definitions = root.setdefault("$defs", {})
    ramp, terms = Ramp.model_json_schema(), {}
    for name in METHODS:
        settings = METHODS.schema(name)
        definitions |= settings.pop("$defs", {})
        own = {**Common.model_json_schema()["properties"], **settings.get("properties", {})}
        numeric = ("number", "integer")
        ramped = {k: {"anyOf": [v, ramp]} if v.get("type") in numeric else v for k, v in own.items()}
        number = {"type": "number", "exclusiveMinimum": 0}
        terms[name] = {"anyOf": [number, ramp, {**settings, "properties": ramped}]}
    plain_row = {"type": "object", "properties": terms, "additionalProperties": False, "minProperties": 1}
    phase = {**plain_row, "properties": {"epochs": {"type": "integer", "minimum": 1}, **terms}}
    phases = {"phases": {"type": "array", "items": phase, "minItems": 1}}
    row = {"anyOf": [plain_row, {"type": "object", "properties": phases, "required": ["phases"]}]}
    root["properties"]["methods"] = {"type": "object", "additionalProperties": row, "minProperties": 1}
    definitions["TeacherSpec"]["properties"]["objective"] = {"$ref": "#/properties/methods/additionalProperties"}
    for name, short in (("ModelSpec", "model"), ("TeacherSpec", "model"), ("DatasetSpec", "name")):
        full = {**definitions[name], "required": [short], "additionalProperties": True}
        definitions[name] = {"anyOf": [{"type": "string"}, full]}
    kinds = {"enum": ["cosine", "constant", "step"]}
    definitions["Schedule"] = {"anyOf": [kinds, definitions["Schedule"]]}
    train = dict(definitions["Train"]["properties"])
    root["properties"]["teacher_train"] = {
        "type": "object",
        "properties": {**train, "seed": {"anyOf": [{"type": "integer"}, {"const": "per_seed"}]}},
        "additionalProperties": False,
    }
    root["required"] = [] if "extends" in root["properties"] else root.get("required", [])
    return root

"""All that can be wrong with a suite, found before anything is built: each mistake with its place."""

import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.method.contract import Method
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.nets import NETS, is_known, unknown_model
from kdbench.suite.check_training import check_augment, check_dataset, check_optimizers, check_rest, listed
from kdbench.suite.controls import CONTROLS
from kdbench.suite.objectives import BASELINES, by_pair, fill, for_pair, objective, terms_of
from kdbench.suite.spec import ModelSpec, Pair, RowOptions, SuiteFile, TeacherSpec, TeacherTrain, Train, mistakes, parse
from kdbench.suite.steps import check_starts, check_steps
from kdbench.suite.training import train_of
from kdbench.suite.yaml_lines import Document, Place


def check(document: Document) -> Iterator[tuple[Place, str]]:
    """All mistakes: those of shape and type, then those of names and settings on whatever has the right shape."""
    data = document.data
    yield from mistakes(SuiteFile, data, ())
    train = data.get("train") if isinstance(data.get("train"), dict) else {}
    assert isinstance(train, dict)
    train_is_right = not list(mistakes(Train, train, ()))
    if isinstance(data.get("teacher_train"), dict) and train_is_right:
        yield from mistakes(TeacherTrain, {**train, **data["teacher_train"]}, ("teacher_train",))
    for number, pair in enumerate(listed(data, "pairs")):
        if not isinstance(pair, dict):
            continue
        if isinstance(pair.get("train"), dict) and train_is_right:
            yield from mistakes(train_of(pair.get("student")), {**train, **pair["train"]}, ("pairs", number, "train"))
        yield from _check_teacher(document, pair.get("teacher"), ("pairs", number, "teacher"))
        yield from _check_model(document, pair.get("student"), ("pairs", number, "student"))
    for number, dataset in enumerate(listed(data, "datasets")):
        yield from check_dataset(dataset, ("datasets", number))
    yield from check_augment(data)
    yield from check_rest(data)
    yield from _check_objectives(document)
    yield from check_starts(data)
    if (seeds := listed(data, "reference_seeds")) and all(type(seed) is int for seed in seeds):
        yield from _check_seeds(seeds, ("reference_seeds",), listed(data, "seeds"))
    for name in ("datasets", "pairs", "seeds"):
        texts = [json.dumps(entry, sort_keys=True) for entry in listed(data, name)]
        for number, text in enumerate(texts):
            if text in texts[:number]:
                yield (name, number), f"stands here twice (also as {name}[{texts.index(text)}])"


def check_models(document: Document) -> Iterator[tuple[Place, str]]:
    """Models and optimizers that timm does not know, files of weights that can't be read; apart, as timm takes seconds
    to import."""
    from kdbench.weights import read_weights

    yield from check_optimizers(document.data)
    for place, spec in _models(document.data):
        name = spec.get("model") if isinstance(spec, dict) else spec
        if isinstance(name, str) and name in NETS:
            yield from _check_registered(name, spec if isinstance(spec, dict) else {}, place)
        elif isinstance(name, str) and (wrong := _wrong_model(name)):
            yield place, wrong
        checkpoint = spec.get("checkpoint") if isinstance(spec, dict) else None
        if isinstance(checkpoint, str) and Path(checkpoint).is_file():  # a missing file is a mistake that `check` finds
            try:
                read_weights(Path(checkpoint), spec.get("checkpoint_entry"))
            except UserError as error:
                yield (*place, "checkpoint"), str(error)


def _wrong_model(name: str) -> str:
    """Why there is no such net; "" where there is."""
    try:
        return "" if is_known(name) else unknown_model(name)
    except UserError as error:  # its library is not installed
        return str(error)


def _check_registered(name: str, spec: dict[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    """The settings of a net that stands in a plugin are its own arguments."""
    if spec.get("pretrained") is True:
        yield (*place, "pretrained"), f"{name} has no pretrained weights; give a file of them as `checkpoint`"
    own = {*TeacherSpec.model_fields, "from"} - {"img_size"}
    settings = {k: v for k, v in spec.items() if k not in own}
    for setting, text in NETS.settings(name, settings)[1]:
        yield (*place, setting), text


def _models(data: dict[str, Any]) -> Iterator[tuple[Place, Any]]:
    """Every student, every teacher, and upwards those who taught it."""
    for number, pair in enumerate(listed(data, "pairs")):
        if isinstance(pair, dict):
            yield ("pairs", number, "student"), pair.get("student")
            place: Place = ("pairs", number, "teacher")
            spec = pair.get("teacher")
            while spec is not None:
                yield place, spec
                place, spec = (*place, "taught_by"), spec.get("taught_by") if isinstance(spec, dict) else None


def _check_teacher(document: Document, spec: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """A teacher, and upwards those who taught it."""
    yield from _check_model(document, spec, place, TeacherSpec)
    if not isinstance(spec, dict):
        return
    if spec.get("num_classes") is not None:
        yield from _check_foreign(spec, (*place, "num_classes"))
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


def _check_foreign(spec: dict[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    """A teacher of other classes than the data's, or of none."""
    if spec.get("taught_by") is not None:
        yield place, "a teacher that is taught learns the classes of the data; leave num_classes out"
    elif not spec.get("pretrained") and spec.get("checkpoint") is None:
        yield place, "a teacher of other classes is taken as it is: give `pretrained: true` or a `checkpoint`"


def _epochs(data: dict[str, Any], *tables: str) -> int | None:
    """The epochs that the first of `tables` to say so gives; None when they make no sense."""
    given = [data[name]["epochs"] for name in tables if isinstance(data.get(name), dict) and "epochs" in data[name]]
    epochs = given[0] if given else Train().epochs
    return epochs if isinstance(epochs, int) else None


def _check_model(
    document: Document, spec: Any, place: Place, kind: type[ModelSpec] = ModelSpec
) -> Iterator[tuple[Place, str]]:
    name = spec.get("model") if isinstance(spec, dict) else None
    own = NETS.form(name).model_fields if isinstance(name, str) and name in NETS else ()  # their own settings
    for option in spec if isinstance(spec, dict) else ():
        if option in own:
            continue
        if kind is ModelSpec and option in ("taught_by", "objective"):
            yield (*place, option), "only a teacher can be taught"
        elif kind is ModelSpec and option == "num_classes":
            yield (*place, option), "a student has the classes of its data; only a teacher may have others"
        elif kind is TeacherSpec and option in ("from", "transforms"):
            yield (*place, option), "only a student has transforms, or begins with another row's student"
        elif option == "transforms" and spec[option] is not None:
            yield from check_steps(spec[option], (*place, option))
        elif option not in kind.model_fields and get_close_matches(option, kind.model_fields, n=1, cutoff=0.86):
            yield (*place, option), unknown("entry", option, kind.model_fields)
    checkpoint = spec.get("checkpoint") if isinstance(spec, dict) else None
    if isinstance(checkpoint, str):
        path = document.lines.get((*place, "checkpoint"), (document.path, 0))[0].parent / checkpoint
        if not path.is_file():
            yield (*place, "checkpoint"), f"no such file: {path}"
        spec["checkpoint"] = str(path)  # from here on as seen from where kdbench runs


def _check_objectives(document: Document) -> Iterator[tuple[Place, str]]:
    rows = document.data.get("methods")
    if not isinstance(rows, dict):
        return
    pairs = _pair_titles(document.data)
    seen: dict[tuple[str, str], str] = {}
    for label, row in rows.items():
        place: Place = ("methods", label)
        if not label.strip() or "|" in label or not label.isprintable():
            yield place, "a row's label must be some printable text without '|'"
        if not isinstance(row, dict):
            continue
        wrong = [*_check_options(row, place, document), *_check_row_by_pair(terms_of(row), place, document, pairs)]
        yield from wrong
        same = {}
        for pair in pairs if not wrong else ():
            chosen = for_pair(by_pair(row), pair)
            if chosen is not None:
                text = json.dumps([objective(chosen), row.get("teacher"), row.get("then")], sort_keys=True)
                if seen.setdefault((pair, text), label) != label:
                    same[seen[pair, text]] = pair
        for other, pair in same.items():
            on = f" on {pair}" if {"by_pair"} & {*row, *rows[other]} else ""
            yield place, f"is the same objective as {other!r}{on}"


def _check_options(row: dict[str, Any], place: Place, document: Document) -> Iterator[tuple[Place, str]]:
    """What a row says beside its methods: seeds of its own, a control teacher, conversions."""
    given = {name: row[name] for name in RowOptions.model_fields if name in row}
    wrong = list(mistakes(RowOptions, given, place))
    yield from wrong
    if wrong:
        return
    if row.get("seeds"):
        yield from _check_seeds(row["seeds"], (*place, "seeds"), listed(document.data, "seeds"))
    if row.get("then") is not None:
        yield from check_steps(row["then"], (*place, "then"))
    if row.get("teacher"):
        yield from _check_control(row, (*place, "teacher"), document)


def _check_control(row: dict[str, Any], place: Place, document: Document) -> Iterator[tuple[Place, str]]:
    if set(terms_of(row)) <= set(BASELINES.values()):
        yield place, "a row that learns from labels alone has no teacher, so no control of it"
    if CONTROLS[row["teacher"]].relabel and _epochs(document.data, "teacher_train", "train") == 0:
        yield place, "with teacher_train.epochs: 0 no control can be trained; there is `untrained`"


def _check_seeds(seeds: list[int], place: Place, of_suite: list[Any]) -> Iterator[tuple[Place, str]]:
    """Seeds of rows' own; these are compared with the others on those that both have."""
    for number, seed in enumerate(seeds):
        if seed in seeds[:number]:
            yield (*place, number), f"stands here twice (also as {place[-1]}[{seeds.index(seed)}])"
    if not set(seeds) & {seed for seed in of_suite if isinstance(seed, int)}:
        yield place, f"has no seed in common with the suite's, {of_suite}: nothing could be compared"


def _pair_titles(data: dict[str, Any]) -> list[str]:
    """`teacher -> student` of every pair; one that is malformed (as `check` says elsewhere) has none."""
    wholes = [pair for pair in listed(data, "pairs") if not list(mistakes(Pair, pair, ()))]
    return [parse(Pair, pair).title for pair in wholes] or ["?"]


def _check_row_by_pair(
    row: dict[str, Any], place: Place, document: Document, pairs: list[str]
) -> Iterator[tuple[Place, str]]:
    epochs = _epochs(document.data, "train")
    if "by_pair" not in row:
        yield from _check_row(row, place, epochs, "train")
        return
    choices = row["by_pair"]
    if len(row) > 1 or not isinstance(choices, dict) or not all(isinstance(c, dict) for c in choices.values()):
        example = '{by_pair: {"cifar_vgg13 -> *": {ce: 1, kd: 2}, "*": {ce: 1, kd: 1}}}'
        yield place, f"by_pair must be a table of pairs and rows, and stand alone: {example}"
        return
    if not choices:
        yield place, "by_pair is empty; it needs at least one pair"
    for pattern, choice in choices.items():
        yield from _check_row(choice, (*place, "by_pair", pattern), epochs, "train")
    # A suite that extends another may have fewer pairs: then what is left over is no mistake.
    if document.lines.get(place, ("", 0))[0] == document.lines.get(("pairs",), ("", 0))[0]:
        for pattern in {*choices} - {for_pair({p: p for p in choices}, pair) for pair in pairs}:
            fits = any(for_pair({pattern: True}, pair) for pair in pairs)
            text = "comes after others that take all its pairs" if fits else unknown("pair", pattern, pairs)
            yield (*place, "by_pair", pattern), text


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

"""What a suite says of training that only others know: words of its data sets, optimizers of timm."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from kdbench.data import DATASETS
from kdbench.errors import unknown
from kdbench.method.metric import METRICS
from kdbench.suite.crop import takes
from kdbench.suite.objectives import BASELINES
from kdbench.suite.spec import mistakes
from kdbench.suite.training import Recipe, Train
from kdbench.suite.yaml_lines import Place

OWN = ("sgd", "adamw")  # torch's; see train/optim.py
# Of timm's: what needs a package of its own, second derivatives, or a compiler.
LEFT_OUT = ("fused", "bnb", "adahessian", "kron")


def listed(data: dict[str, Any], name: str) -> list[Any]:
    """The list under `name`; an empty one where there is something else."""
    return data[name] if isinstance(data.get(name), list) else []


def tables(data: dict[str, Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Every table that says how to train."""
    places: list[tuple[Place, Any]] = [((name,), data.get(name)) for name in ("train", "teacher_train")]
    pairs = enumerate(listed(data, "pairs"))
    places += [(("pairs", number, "train"), pair.get("train")) for number, pair in pairs if isinstance(pair, dict)]
    places += [(("then", "train"), data["then"].get("train"))] if isinstance(data.get("then"), dict) else []
    yield from ((place, table) for place, table in places if isinstance(table, dict))


def check_rest(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """What concerns the rows' labels, and what students learn afterwards."""
    yield from check_crop(data)
    yield from check_evaluate(data)
    yield from check_labels(data)
    then, train = data.get("then"), data.get("train")
    if isinstance(then, dict):
        yield from check_dataset(then.get("dataset"), ("then", "dataset"))
        if isinstance(then.get("train"), dict) and isinstance(train, dict) and not list(mistakes(Train, train, ())):
            yield from mistakes(Train, {**train, **then["train"]}, ("then", "train"))


def check_dataset(spec: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """A data set's name and its settings."""
    name = spec.get("name") if isinstance(spec, dict) else spec
    if not isinstance(name, str):
        return
    if name not in DATASETS:
        yield place, unknown("data set", name, DATASETS)
    elif isinstance(spec, dict):
        settings = {k: v for k, v in spec.items() if k != "name"}
        wrong = DATASETS.settings(name, settings)[1]
        for setting, text in wrong:
            yield (*place, setting), text
        if not wrong and isinstance(metric := settings.get("metric"), str) and metric not in METRICS:
            yield (*place, "metric"), unknown("metric", metric, METRICS)
    else:
        for setting, text in DATASETS.settings(name, {})[1]:
            yield place, f"{setting}: {text}"


def check_labels(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Rows that may read no label and have a method that reads nothing else."""
    rows = data["methods"].items() if isinstance(data.get("methods"), dict) else ()
    for label, row in rows:
        if not isinstance(row, dict) or row.get("labels") is None:
            continue
        if reading := [name for name in BASELINES.values() if name in _keys(row)]:
            yield ("methods", label, "labels"), f"{reading[0]} reads labels; the row says that none is read"


def _keys(value: Any) -> Iterator[str]:
    """Of a table, and of those in it."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from value if isinstance(value, dict) else ()
    for one in inside:
        yield from _keys(one)


def check_augment(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Words that one of the data sets does not know, and mistakes in tables."""
    for place, table in tables(data):
        for name in _names(data, place):
            yield from _check_augment(table.get("augment"), name, (*place, "augment"))


def _check_augment(given: Any, name: str, place: Place) -> Iterator[tuple[Place, str]]:
    words, model = DATASETS[name].augments, DATASETS[name].augment_table
    if isinstance(given, str) and words is not None and given not in words:
        yield place, unknown("augmentation", given, words)
    if isinstance(given, dict) and model is None:
        yield place, f"data set {name} knows no table of augmentations"
    elif isinstance(given, dict):
        yield from mistakes(model, given, place)


def check_crop(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Mistakes in `test_crop`; and a net's own, where no data set can be cut."""
    for place, table in tables(data):
        how, names = table.get("test_crop"), [name for name in _names(data, place) if takes(name)]
        if how in ("teacher", "student") and not names:
            yield (*place, "test_crop"), "the data sets' examples have one size: nothing can be cut"
        elif isinstance(how, dict | int | float) and not isinstance(how, bool):
            found = (DATASETS.settings(name, {"test_crop": how})[1] for name in names[:1])
            yield from (((*place, "test_crop"), text) for [*wrong] in found for s, text in wrong if s == "test_crop")


def check_evaluate(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Data sets whose examples can't be made worse, where a suite asks for that."""
    asked = data.get("evaluate")
    if isinstance(asked, dict) and asked.get("corruptions") is True:
        for name in _names(data):
            if DATASETS[name].corrupted is None:
                yield ("evaluate", "corruptions"), f"data set {name} knows no corruptions"


def _names(data: dict[str, Any], place: Place = ()) -> list[str]:
    """Of the data sets that there are, and that a table at `place` says how to train on."""
    specs = [data["then"].get("dataset")] if place[:1] == ("then",) else listed(data, "datasets")
    names = [spec.get("name") if isinstance(spec, dict) else spec for spec in specs]
    return [name for name in names if isinstance(name, str) and name in DATASETS]


def check_optimizers(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """Optimizers that there are not, or that don't take what they are given."""
    train = data.get("train") if isinstance(data.get("train"), dict) else {}
    for place, table in tables(data):
        whole = {**train, **table} if isinstance(train, dict) else table
        given = {name: whole[name] for name in ("optimizer", "betas", "eps") if name in whole}
        name = given.get("optimizer", "sgd")
        if list(mistakes(Recipe, given, place)):
            continue  # told by `check`
        if name not in OWN and name not in timm_optimizers():
            yield (*place, "optimizer"), unknown("optimizer", name, {*OWN, *timm_optimizers()})
        elif problem := _refused(name, given):
            yield (*place, "optimizer"), problem


@lru_cache
def timm_optimizers() -> frozenset[str]:
    from timm.optim import list_optimizers

    return frozenset(name for name in list_optimizers() if not name.startswith(LEFT_OUT))


def _refused(name: str, given: dict[str, Any]) -> str:
    """Why an optimizer does not take its settings; "" where it does. timm itself would pass over what has no use."""
    own = [setting for setting in ("betas", "eps") if given.get(setting) is not None]
    if name in OWN:
        return f"sgd has no {own[0]}" if own and name == "sgd" else ""
    from timm.optim import get_optimizer_info  # with timm comes torch's compiler: two seconds

    info = get_optimizer_info(name)
    lacking = [setting for setting in own if not getattr(info, f"has_{setting}")]
    return f"{name} has no {lacking[0]}" if lacking else ""

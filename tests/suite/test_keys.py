"""Keys decide what is done already: they are pinned, and a new setting that is off changes none of them.

Where they have to change (FORMAT was raised, a default is another): `uv run python tests/suite/test_keys.py`.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import create_model

from kdbench.data import DATASETS
from kdbench.method.register import METHODS
from kdbench.registry import Registry
from kdbench.suite import spec
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.identity import _dataset_text
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods

PINNED = Path(__file__).with_name("keys.json")
KD = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}
PLAIN: dict[str, Any] = {
    "name": "keys",
    "datasets": ["digits"],
    "pairs": [{"teacher": "cifar_resnet20", "student": "cifar_resnet8"}],
    "methods": {"student": {"ce": 1}, "kd": KD},
    "seeds": [0],
    "train": {"epochs": 10},
}
ASSISTANT = {"model": "cifar_resnet14", "taught_by": {"model": "cifar_resnet32"}, "objective": KD}
# What each suite changes in PLAIN.
SUITES: dict[str, dict[str, Any]] = {
    "plain": {},
    "another seed": {"seeds": [7], "methods": {"kd": KD}},
    "other data": {"datasets": ["cifar10", "cifar100"], "methods": {"kd": KD}},
    "larger digits": {"datasets": [{"name": "digits", "size": 32}], "methods": {"kd": KD}},
    "held out": {"validation": 0.1, "methods": {"kd": KD}},
    "recipe": {
        "methods": {"kd": KD},
        "train": {"epochs": 30, "batch_size": 32, "lr": 0.1, "schedule": {"step": [10, 20], "gamma": 0.2},
                  "augment": "flip", "precision": "bf16", "nesterov": True, "warmup_epochs": 2, "clip_grad": 1.0},
    },
    "adamw": {
        "methods": {"kd": KD},
        "train": {"epochs": 10, "optimizer": "adamw", "lr": 0.001, "no_decay": "norms_and_biases"},
    },
    "teachers": {"methods": {"kd": KD}, "teacher_train": {"epochs": 20, "seed": "per_seed"}, "seeds": [0, 1]},
    "options": {
        "methods": {"kd": KD},
        "pairs": [
            {"teacher": {"model": "resnet18", "pretrained": True}, "student": {"model": "resnet10t", "img_size": 64}},
            {"teacher": ASSISTANT, "student": {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}},
            {"teacher": "cifar_resnet20", "student": "cifar_resnet8", "train": {"lr": 0.01}},
        ],
    },
    "objectives": {
        "methods": {
            "at": {"ce": 1, "at": 1000},
            "kd+sp+rkd": {"ce": 0.1, "kd": {"weight": 0.9, "standardise": "sample"}, "sp": 3000, "rkd": 1},
            "ramp": {"ce": 1, "kd": {"weight": 1, "temperature": {"from": 8, "to": 2, "curve": "cosine"}}},
            "phases": {"phases": [{"epochs": 3, "fitnet": 100}, KD]},
            "by pair": {"by_pair": {"cifar_resnet20 -> *": {"ce": 1, "dkd": {"beta": 8}}}},
            "rule": {"ce": 1, "kd": 1, "dot": 1},
        }
    },
}  # fmt: skip


def cells(folder: Path) -> dict[str, Cell]:
    """By the suite's name and the cell's title."""
    found = {}
    _dataset_text.cache_clear()  # it knows nothing of other settings
    for name, changes in SUITES.items():
        path = folder / "suite.yaml"
        path.write_text(yaml.safe_dump({**PLAIN, **changes}, sort_keys=False))
        found |= {f"{name}: {cell.title}": cell for cell in cells_of(load_suite(path))}
    return found


def keys(found: dict[str, Cell]) -> dict[str, list[str]]:
    """Of the cell, of its cohort, of its teacher."""
    return {title: [cell.key, cell.cohort, cell.teacher_key] for title, cell in found.items()}


def changed(found: dict[str, Cell], pinned: dict[str, list[str]]) -> list[str]:
    return [title for title, values in keys(found).items() if values != pinned[title]]


@pytest.fixture(scope="module")
def pinned() -> dict[str, list[str]]:
    return json.loads(PINNED.read_text())


def test_keys_are_pinned(tmp_path: Path, pinned: dict[str, list[str]]) -> None:
    found = cells(tmp_path)
    assert len(found) == len(pinned) == 20
    assert keys(found) == pinned
    assert len({key for key, _, _ in pinned.values()}) == 20


def with_setting(model: Any, default: Any) -> Any:
    """`model` with one more setting."""
    return create_model(model.__name__, __base__=model, novelty=(float | None, default))


def in_train(cell: Cell, default: Any) -> Cell:
    kinds = {name: with_setting(getattr(spec, name), default) for name in ("Train", "TeacherTrain")}
    parts = {"train": cell.train, "teacher_train": cell.teacher_train}
    made = {n: kinds[type(part).__name__].model_validate(part.model_dump()) for n, part in parts.items()}
    return replace(cell, **made)


def in_models(cell: Cell, default: Any) -> Cell:
    kinds = {name: with_setting(getattr(spec, name), default) for name in ("TeacherSpec", "ModelSpec")}
    parts = {"teacher": cell.teacher, "student": cell.student}
    made = {n: kinds[type(part).__name__].model_validate(part.model_dump()) for n, part in parts.items()}
    return replace(cell, **made)


@pytest.mark.parametrize("change", [in_train, in_models], ids=["train", "models"])
def test_a_new_setting_of_train_or_model_that_is_off_changes_no_key(
    tmp_path: Path,
    pinned: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Cell, Any], Cell],
) -> None:
    old = cells(tmp_path)
    if change is in_train:  # what a cohort shares may have it too
        monkeypatch.setattr(spec, "Batches", with_setting(spec.Batches, None))
    assert changed({title: change(cell, None) for title, cell in old.items()}, pinned) == []
    on = changed({title: change(cell, 0.5) for title, cell in old.items()}, pinned)
    assert on == list(pinned)  # one that is on changes all: the test can fail


@pytest.mark.parametrize("registry", [METHODS, DATASETS], ids=["methods", "data sets"])
def test_a_new_setting_of_a_method_or_data_set_that_is_off_changes_no_key(
    tmp_path: Path, pinned: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, registry: Registry[Any]
) -> None:
    def add(default: Any) -> None:
        settings = {name: with_setting(model, default) for name, model in whole.items()}
        monkeypatch.setattr(registry, "_settings", settings)

    whole = registry._settings
    add(None)
    assert changed(cells(tmp_path), pinned) == []
    add(0.5)
    assert changed(cells(tmp_path), pinned) == list(pinned)


if __name__ == "__main__":
    load_methods()
    with tempfile.TemporaryDirectory() as place:
        PINNED.write_text(json.dumps(keys(cells(Path(place))), indent=1, ensure_ascii=False) + "\n")

"""Rows with seeds of their own: what all others are compared with is worth more of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite

ROWS: dict[str, Any] = {"student": {"ce": 1}, "kd": {"ce": 1, "kd": 1}}
FORMS: dict[str, Any] = {
    "plain": {"ce": 1, "kd": 1},
    "phases": {"phases": [{"epochs": 1, "fitnet": 100}, {"kd": 1}]},
    "by_pair": {"by_pair": {"cifar_resnet14 -> *": {"ce": 1, "kd": 1}}},
}


def cells(tmp_path: Path, methods: dict[str, Any], **changes: Any) -> list[Cell]:
    path = tmp_path / "seeds.yaml"
    whole = {"name": "seeds", "datasets": ["digits"], "methods": methods, "seeds": [0, 1], "train": {"epochs": 2},
             "pairs": [{"teacher": "cifar_resnet14", "student": "cifar_resnet8"}]}  # fmt: skip
    whole |= changes
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return cells_of(load_suite(path))


def test_a_row_has_the_suites_seeds_or_its_own(tmp_path: Path) -> None:
    found = cells(tmp_path, {**ROWS, "student": {"ce": 1, "seeds": [0, 1, 2, 5]}})
    assert [(c.label, c.seed) for c in found] == [
        ("student", 0), ("kd", 0), ("student", 1), ("kd", 1), ("student", 2), ("student", 5),
    ]  # fmt: skip
    assert found[0].is_alone


def test_seeds_are_in_no_key(tmp_path: Path) -> None:
    before = {(c.label, c.seed): c.key for c in cells(tmp_path, ROWS)}
    after = {(c.label, c.seed): c.key for c in cells(tmp_path, {**ROWS, "student": {"ce": 1, "seeds": [1, 0, 9]}})}
    assert {place: after[place] for place in before} == before


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_row_may_have_seeds(tmp_path: Path, form: str) -> None:
    plain = cells(tmp_path, {"student": {"ce": 1}, "row": FORMS[form]})
    own = cells(tmp_path, {"student": {"ce": 1}, "row": {**FORMS[form], "seeds": [1]}})
    assert [c.key for c in own] == [c.key for c in plain if c.label == "student" or c.seed == 1]


def seeds_of(found: list[Cell]) -> dict[str, list[int]]:
    return {label: [c.seed for c in found if c.label == label] for label in dict.fromkeys(c.label for c in found)}


def test_what_all_rows_are_compared_with_may_have_more_seeds(tmp_path: Path) -> None:
    """The student alone, whatever its label and form, and the row labelled kd; a row's own seeds go before."""
    rows: dict[str, Any] = {
        "plain": {"by_pair": {"*": {"ce": 1}}},
        "kd": {"ce": 1, "kd": 1},
        "rkd": {"ce": 1, "rkd": 1},
        "own": {"ce": 1, "sp": 3000, "seeds": [1, 4]},
    }
    found = seeds_of(cells(tmp_path, rows, reference_seeds=[0, 1, 2, 3]))
    assert {label: sorted(seeds) for label, seeds in found.items()} == {
        "plain": [0, 1, 2, 3], "kd": [0, 1, 2, 3], "rkd": [0, 1], "own": [1, 4],
    }  # fmt: skip
    own = seeds_of(cells(tmp_path, {**rows, "kd": {"ce": 1, "kd": 1, "seeds": [0, 7]}}, reference_seeds=[0, 1, 2, 3]))
    assert own["kd"] == [0, 7]


def test_seeds_of_references_are_in_no_key(tmp_path: Path) -> None:
    before = {(c.label, c.seed): c.key for c in cells(tmp_path, ROWS)}
    after = {(c.label, c.seed): c.key for c in cells(tmp_path, ROWS, reference_seeds=[0, 1, 2])}
    assert len(after) == len(before) + 2
    assert {place: after[place] for place in before} == before

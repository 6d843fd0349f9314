"""A row whose weights differ by pair: one label on the leaderboard, the settings that were published for each pair."""

import pytest
import yaml

from kdbench.errors import UserError
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite

PAIRS = [
    {"teacher": "cifar_resnet14", "student": "cifar_resnet8"},
    {"teacher": "cifar_resnet20", "student": "cifar_resnet8"},
    {"teacher": "cifar_resnet20", "student": "cifar_resnet14"},
]
DKD = {"cifar_resnet14 -> *": {"ce": 1, "dkd": {"beta": 2}}, "* -> cifar_resnet8": {"ce": 1, "dkd": {"beta": 6}}}


def suite(tmp_path, name="pairs", **changes):
    whole = {"name": name, "datasets": ["digits"], "pairs": PAIRS, "methods": {"student": {"ce": 1}}, "seeds": [0],
             "train": {"epochs": 2}}  # fmt: skip
    path = tmp_path / f"{name}.yaml"
    whole = {key: value for key, value in {**whole, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return load_suite(path)


def betas(cells):
    return {(c.teacher.model, c.student.model): c.phases[0][1]["dkd"]["beta"] for c in cells if c.label == "dkd"}


def test_the_first_pattern_that_fits_is_taken_and_where_none_fits_there_is_no_cell(tmp_path):
    cells = cells_of(suite(tmp_path, methods={"student": {"ce": 1}, "dkd": {"by_pair": DKD}}))
    assert betas(cells) == {("cifar_resnet14", "cifar_resnet8"): 2, ("cifar_resnet20", "cifar_resnet8"): 6}
    assert sum(c.label == "student" for c in cells) == 3


def test_a_cell_is_keyed_by_its_objective_alone(tmp_path):
    by_pair = cells_of(suite(tmp_path, methods={"dkd": {"by_pair": DKD}}))
    plain = cells_of(suite(tmp_path, methods={"dkd": {"ce": 1, "dkd": {"beta": 2}}}))
    assert by_pair[0].key == plain[0].key
    assert by_pair[1].key != plain[1].key


def test_phases_may_differ_by_pair_too(tmp_path):
    phases = {"phases": [{"epochs": 1, "ab": 1}, {"ce": 1}]}
    [first, *others] = cells_of(suite(tmp_path, methods={"ab": {"by_pair": {"cifar_resnet14 -> *": phases,
                                                                            "*": {"ce": 1, "kd": 1}}}}))  # fmt: skip
    assert [len(cell.phases) for cell in (first, *others)] == [2, 1, 1]


def test_a_suite_that_extends_may_leave_pairs_out(tmp_path):
    suite(tmp_path, methods={"student": {"ce": 1}, "dkd": {"by_pair": DKD}})
    shorter = dict.fromkeys(("datasets", "methods", "seeds", "train"))
    child = suite(tmp_path, "child", extends="pairs.yaml", pairs=PAIRS[1:], **shorter)
    assert betas(cells_of(child)) == {("cifar_resnet20", "cifar_resnet8"): 6}


def test_two_rows_that_are_the_same_on_one_pair_are_told(tmp_path):
    with pytest.raises(UserError, match=r"same objective as 'other' on cifar_resnet14 -> cifar_resnet8"):
        suite(tmp_path, methods={"other": {"ce": 1, "dkd": {"beta": 2}}, "dkd": {"by_pair": DKD}})


def test_a_teacher_s_objective_is_one_row(tmp_path):
    taught = {"model": "cifar_resnet14", "taught_by": "cifar_resnet20", "objective": {"by_pair": {"*": {"ce": 1}}}}
    with pytest.raises(UserError, match="unknown method 'by_pair'"):
        suite(tmp_path, pairs=[{"teacher": taught, "student": "cifar_resnet8"}])

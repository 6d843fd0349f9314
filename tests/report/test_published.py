"""The literature's numbers: the files, which row stands for which objective, and when a difference is computed."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import UserError
from kdbench.nets import known_models
from kdbench.report import published
from kdbench.report.published import load, published_for, recipes, same_training
from kdbench.report.table import make_board
from kdbench.suite.cells import cells_of, objective_identity
from kdbench.suite.load import load_suite, objective

FILES = ("cifar100", "glue", "imagenet", "tiny-imagenet")
PAIRS = [
    "wrn_40_2 -> wrn_16_2", "wrn_40_2 -> wrn_40_1", "resnet56 -> resnet20", "resnet110 -> resnet20",
    "resnet110 -> resnet32", "resnet32x4 -> resnet8x4", "vgg13 -> vgg8", "vgg13 -> mobilenetv2",
    "resnet50 -> mobilenetv2", "resnet50 -> vgg8", "resnet32x4 -> shufflenetv1", "resnet32x4 -> shufflenetv2",
    "wrn_40_2 -> shufflenetv1",
]  # fmt: skip


def terms(row: dict[str, Any]) -> Any:
    return objective_identity(objective(row))


def number(pair: str, row: dict[str, Any]) -> published.Published | None:
    teacher, student = (f"cifar_{name}" for name in pair.split(" -> "))
    return published_for("cifar100", teacher, student, terms(row))


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_an_accuracy_with_its_source(name: str) -> None:
    table = load(name)
    assert tuple(table.columns) == published.COLUMNS
    assert table["top1"].between(20, 95).all()
    assert (table["std"].dropna() < 1).all()
    assert set(table["protocol"]) <= {"last", "best", "unstated"}
    assert (table[["teacher", "student", "method", "setting", "source"]] != "").all(axis=None)
    assert not table.duplicated().any()


def test_an_unknown_file_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="unknown published data set 'cifar10'; did you mean 'cifar100'"):
        load("cifar10")


def test_other_settings_are_marked() -> None:
    """Names of teachers and recipes that the reference marks never stand in the CRD setting."""
    crd = load("cifar100").query("setting == 'crd'")
    assert not crd["source"].str.contains("SSKD|HSAKD|SemCKD|SimKD|OFA|mmrazor").any()
    assert not crd["method"].isin(["ReviewKD", "MLKD", "MLKD+LSKD", "SSKD", "SimKD f=2"]).any()


def test_all_13_pairs_have_the_benchmarks_rows_and_one_teacher_each() -> None:
    crd = load("cifar100").query("setting == 'crd'")
    teachers = crd[crd["method"] == "teacher"].groupby("teacher")["top1"].unique()
    assert {name: list(values) for name, values in teachers.items()} == {
        "wrn_40_2": [75.61], "resnet56": [72.34], "resnet110": [74.31], "resnet32x4": [79.42], "vgg13": [74.64],
        "resnet50": [79.34],
    }  # fmt: skip
    for pair in PAIRS:
        assert all(f"cifar_{name}" in known_models() for name in pair.split(" -> "))
        for row in ({"ce": 1}, {"ce": 0.1, "kd": 0.9}, {"ce": 1, "crd": 0.8}, {"ce": 1, "pkt": 30000}):
            assert number(pair, row) is not None, (pair, row)


@pytest.mark.parametrize(("pair", "row", "top1", "protocol"), [
    ("resnet56 -> resnet20", {"ce": 1}, 69.06, "last"),
    ("resnet56 -> resnet20", {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}, 70.66, "last"),
    ("resnet56 -> resnet20", {"ce": 1, "dkd": {"beta": 2}}, 71.97, "best"),
    ("resnet32x4 -> shufflenetv2", {"ce": 1, "dkd": {"beta": 8}}, 77.07, "best"),
    ("resnet32x4 -> resnet8x4", {"ce": 1, "dist": {"weight": 2}}, 76.31, "best"),
    ("vgg13 -> vgg8", {"ce": 1, "at": {"weight": 1000, "stages": [-4, -3, -2, -1]}}, 71.43, "last"),
    ("vgg13 -> vgg8", {"ce": 1, "ttm": 45}, 74.33, "unstated"),
    ("resnet32x4 -> resnet8x4", {"ce": 1, "itrd": {"alpha": 1.01}}, 76.69, "unstated"),
    ("vgg13 -> mobilenetv2", {"ce": 1, "sdd": {"beta": 6, "grids": [2, 4]}}, 70.25, "unstated"),
    ("resnet56 -> resnet20", {"ce": 1, "kd": {"weight": 1, "temperature": 4}, "nd": 2}, 72.53, "unstated"),
    ("resnet32x4 -> shufflenetv1", {"ce": 1, "dkd": {"alpha": 0.5, "beta": 8}, "nd": 4}, 77.11, "unstated"),
    ("resnet110 -> resnet20",
     {"ce": 0.1, "kd": {"weight": 12, "temperature": 4, "standardise": "sample"}}, 71.48, "best"),
])  # fmt: skip
def test_the_number_of_an_objective(pair: str, row: dict[str, Any], top1: float, protocol: str) -> None:
    found = number(pair, row)
    assert found is not None
    assert (found.top1, found.protocol) == (top1, protocol)


@pytest.mark.parametrize(("label", "num"), [("kd++", 6), ("dkd++", 6), ("luminet", 6)])
def test_the_literature_s_suite_has_the_settings_that_its_new_rows_were_published_with(label: str, num: int) -> None:
    suite = load_suite(Path(__file__).parents[2] / "suites" / "cifar100.yaml")
    cells = [cell for cell in cells_of(suite) if cell.label == label and cell.seed == 0]
    found = [published_for("cifar100", c.teacher.model, c.student.model, c.identity["objective"]) for c in cells]
    assert sum(number is not None for number in found) == num


@pytest.mark.parametrize(("pair", "row"), [
    ("resnet56 -> resnet20", {"ce": 1, "dkd": {"beta": 8}}),  # published with beta 2 there
    ("resnet56 -> resnet20", {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 2}}),
    ("vgg13 -> vgg8", {"ce": 1, "at": 1000}),  # published with four stages
    ("resnet56 -> resnet8", {"ce": 1}),
    ("wrn_40_2 -> wrn_40_1", {"ce": 1, "fsp": 50}),
])  # fmt: skip
def test_what_the_literature_does_not_have_has_no_number(pair: str, row: dict[str, Any]) -> None:
    assert number(pair, row) is None


def test_only_our_names_on_our_data_sets_are_looked_up() -> None:
    assert published_for("cifar100", "resnet50", "cifar_vgg8", terms({"ce": 1})) is None
    assert published_for("digits", "cifar_resnet50", "cifar_vgg8", terms({"ce": 1})) is None


def test_every_recipe_stands_for_rows_of_its_source() -> None:
    table = load("cifar100").query("setting == 'crd'")
    for row in recipes()["cifar100"]["rows"]:
        assert ((table["method"] == row["method"]) & table["source"].str.contains(row["source"], regex=False)).any()


def test_glue_s_rows_stand_beside_those_of_its_suite() -> None:
    suite = load_suite(Path(__file__).parents[2] / "suites" / "glue.yaml")
    found = {}
    for cell in cells_of(suite):
        about = published.beside(cell.identity, 60.0, 61.0)
        if cell.seed == 0 and not math.isnan(about.number):
            assert math.isnan(about.difference), "trained otherwise"
            assert "other training than ours" in about.protocol
            assert "MetaDistil" in about.source
            found[cell.dataset.settings["subset"], cell.label] = about.number, about.teacher
            assert len(cell.student.options["keep"]) == 6
    assert len(found) == 6 * 2
    assert found["rte", "patient"] == (63.18, 67.51)
    assert found["mrpc", "student"] == (87.41, 89.00)


# --- beside ours -----------------------------------------------------------------------------------------------------


Table = dict[str, dict[str, Any]]  # label -> row of the table


@pytest.fixture
def board(suite_file: Callable[..., Path]) -> Callable[..., Table]:
    """The leaderboard with published numbers, of cells that all scored 70.0 (last), 71.0 (best)."""

    def make(done: bool = True, teacher_top1: float = 72.0, **changes: Any) -> Table:
        benchmark = recipes()["cifar100"]["train"]
        suite = {
            "datasets": ["cifar100"],
            "pairs": [{"teacher": "cifar_resnet56", "student": "cifar_resnet20"}],
            "methods": {"student": {"ce": 1}, "dkd": {"ce": 1, "dkd": {"beta": 2}}, "rld": {"ce": 1, "rld": 1}},
            "train": benchmark, **changes,
        }  # fmt: skip
        cells = cells_of(load_suite(suite_file(**suite)))
        records = [
            {"key": c.key, "dataset": c.dataset.name, "teacher": c.teacher.short, "student": c.student.short,
             "label": c.label, "seed": c.seed, "status": "done", "settings": c.identity,
             "scores": {"test_top1": 70.0, "test_top1_best": 71.0, "teacher_top1": teacher_top1}}
            for c in cells
        ]  # fmt: skip
        table = make_board("tiny", cells, records if done else [], published=True).table
        return {row["objective"]: row for row in table.to_dict("records")}

    return make


def test_each_paper_is_met_with_its_own_protocol(board: Callable[..., Table]) -> None:
    rows = board()
    assert rows["student"]["ours - published"] == pytest.approx(70.0 - 69.06)
    assert rows["student"]["published_protocol"] == "last epoch"
    assert "RepDistiller" in rows["student"]["published_source"]
    assert rows["dkd"]["ours - published"] == pytest.approx(71.0 - 71.97)
    assert rows["dkd"]["published_protocol"] == "best test epoch"
    assert math.isnan(rows["rld"]["published"])
    assert rows["rld"]["published_source"] == ""


@pytest.mark.parametrize("change", [
    {"train": {"epochs": 6}}, {"validation": 0.1}, {"teacher_train": {"epochs": 300}},
    {"train": {"lr": 0.1}}, {"train": {"augment": "flip"}},
])  # fmt: skip
def test_other_training_has_no_difference(board: Callable[..., Table], change: dict[str, Any]) -> None:
    if "train" in change:
        schedule = {"kind": "cosine"} if "epochs" in change["train"] else recipes()["cifar100"]["train"]["schedule"]
        change = {"train": {**recipes()["cifar100"]["train"], **change["train"], "schedule": schedule}}
    row = board(**change)["student"]
    assert row["published"] == 69.06
    assert math.isnan(row["ours - published"])
    assert row["published_protocol"] == "last epoch; other training than ours"


def test_a_checkpoint_must_be_the_benchmarks_own_teacher(board: Callable[..., Table], tmp_path: Path) -> None:
    (tmp_path / "teacher.pth").write_bytes(pickle_of_nothing())
    pairs = [{"teacher": {"model": "cifar_resnet56", "checkpoint": str(tmp_path / "teacher.pth")},
              "student": "cifar_resnet20"}]  # fmt: skip
    theirs, another = (board(teacher_top1=top1, pairs=pairs)["student"] for top1 in (72.36, 70.0))
    assert theirs["ours - published"] == pytest.approx(70.0 - 69.06)
    assert math.isnan(another["ours - published"])
    assert another["published_protocol"] == "last epoch; another teacher than ours"


def test_the_published_teachers_accuracy_stands_beside_ours(board: Callable[..., Table]) -> None:
    """A teacher that we trained by the recipe is compared, but nobody need guess whether it was as good."""
    row = board(teacher_top1=70.0)["student"]
    assert (row["teacher_top1"], row["published_teacher"]) == (70.0, 72.34)
    assert math.isfinite(row["ours - published"])


def pickle_of_nothing() -> bytes:
    buffer = io.BytesIO()
    torch.save({"fc.bias": torch.zeros(100)}, buffer)
    return buffer.getvalue()


def test_slow_students_have_their_own_rate(board: Callable[..., Table]) -> None:
    pair = {"teacher": "cifar_wrn_40_2", "student": "cifar_shufflenetv1"}
    assert math.isnan(board(pairs=[pair])["student"]["ours - published"])
    slow = board(pairs=[{**pair, "train": {"lr": 0.01}}])["student"]
    assert slow["ours - published"] == pytest.approx(70.0 - 70.50)


def test_another_net_under_a_known_name_is_not_compared(board: Callable[..., Table]) -> None:
    narrow = {"model": "cifar_resnet20", "widths": [4, 4, 8, 8]}
    row = board(pairs=[{"teacher": "cifar_resnet56", "student": narrow}])["student"]
    assert math.isnan(row["published"])


def test_rows_without_a_finished_cell_and_an_empty_table(board: Callable[..., Table]) -> None:
    row = board(done=False)["student"]
    assert row["published"] == 69.06
    assert math.isnan(row["ours - published"])
    assert make_board("none", [], [], published=True).table.empty


def test_precision_may_differ() -> None:
    train = {**recipes()["cifar100"]["train"], "precision": "bf16"}
    recipe = {
        "dataset": {"name": "cifar100"}, "validation": 0.0, "student": {"model": "cifar_resnet20"}, "train": train,
        "teacher": {"model": {"model": "cifar_resnet56", "checkpoint": "abc"}},
    }  # fmt: skip
    assert same_training(recipe)
    assert not same_training(json.loads(json.dumps(recipe)) | {"dataset": {"name": "digits"}})

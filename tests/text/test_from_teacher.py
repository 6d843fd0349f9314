"""Students that begin with layers of a teacher that the same suite trains: their weights, keys, order and refusals."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import without_measures
from safetensors.torch import load_file

from kdbench import load_student
from kdbench.api import Options, run_suite
from kdbench.commands.recommend import _how_sure
from kdbench.errors import UserError
from kdbench.grid.cohort import Place
from kdbench.grid.executors import Job
from kdbench.grid.parcel import teachers_of
from kdbench.method.contract import Field, InputSpec, Task
from kdbench.nets import Net, build_net
from kdbench.report.table import make_board
from kdbench.results.clean import teachers_of as needed_by
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.takeover import taken_from

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread")
TEACHER: dict[str, Any] = {"model": "bert", "layers": 3, "width": 16, "heads": 2}
STUDENT: dict[str, Any] = {**TEACHER, "layers": 2, "from": {"teacher": [0, 2]}}
PLAIN = {**TEACHER, "layers": 2}
PAIR = {"teacher": TEACHER, "student": STUDENT}
UNTRAINED = {"teacher": TEACHER, "student": {**TEACHER, "layers": 1, "from": {"teacher": [1]}}, "train": {"epochs": 0}}
SUITE: dict[str, Any] = {
    "name": "begun",
    "datasets": [{"name": "docstrings", "per_class": 16, "vocabulary": 400, "length": 16}],
    "pairs": [PAIR, UNTRAINED],
    "methods": {"control": {"ce": 1, "kd": 1, "teacher": "untrained"}, "student": {"ce": 1}},
    "seeds": [0, 1],
    "train": {"epochs": 1, "batch_size": 32, "optimizer": "adamw", "lr": 0.003, "augment": "none"},
    "teacher_train": {"seed": "per_seed"},
}


def suite_in(folder: Path, **changes: Any) -> Path:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}, sort_keys=False), encoding="utf-8")
    return path


def records_in(results: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_bytes()) for path in (results / "begun" / "records").glob("*.json")]
    assert [r["reason"] for r in found if r["status"] != "done"] == []
    return found


def run_in(folder: Path, **options: Any) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        patch.setattr("kdbench.train.profiling.sizes_at", lambda *given: {})  # a second a shape, and told elsewhere
        run_suite(suite_in(folder), Options(results=folder / "results", device="cpu", **options))
    return records_in(folder / "results")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("begun")


@pytest.fixture(scope="module")
def records(folder: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    return run_in(folder)


def layer(weights: dict[str, torch.Tensor], number: int) -> list[torch.Tensor]:
    return [weights[name] for name in sorted(weights) if name.startswith(f"bert.encoder.layer.{number}.")]


def test_the_teacher_is_trained_first_and_its_layers_are_what_students_begin_with(
    folder: Path, records: list[dict[str, Any]]
) -> None:
    """Those that train no epoch are delivered as they began, whatever stands in the teacher's place."""
    begun = [r for r in records if r["settings"]["train"]["epochs"] == 0]
    assert len(begun) == 4
    for record in begun:
        key = record["settings"]["begins"]["teacher"]
        assert (key == record["teacher_key"]) == (record["label"] != "control")
        given = load_file(folder / "results" / "teachers" / f"{key}.safetensors")
        own = load_student(record["key"], folder / "results").state_dict()
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(layer(own, 0), layer(given, 1), strict=True))
        rest = [name for name in own if ".layer." not in name]
        assert {"bert.pooler.dense.weight", "classifier.weight"} < set(rest)
        assert all(torch.equal(own[name], given[name]) for name in rest)


def test_all_objectives_of_a_seed_begin_with_the_same_bits(records: list[dict[str, Any]]) -> None:
    starts: dict[tuple[str, int], set[str]] = {}
    for record in records:
        starts.setdefault((record["student"], record["seed"]), set()).add(record["digests"]["states"][0])
    assert {pair: len(found) for pair, found in starts.items()} == dict.fromkeys(starts, 1)
    assert len(starts) == len({str(found) for found in starts.values()}) == 4  # each seed has a teacher of its own


def test_the_table_says_what_students_begin_with(folder: Path, records: list[dict[str, Any]]) -> None:
    board = (folder / "results" / "begun" / "leaderboard.md").read_text(encoding="utf-8")
    assert "bert(heads=2, layers=2, width=16) (from layers 0, 2 of the teacher)" in board
    assert (
        "Students begin with layers 0, 2 of the teacher: student *(alone)* goes on from there on labels only" in board
    )


def test_advice_does_not_call_plain_what_has_the_teacher_s_layers(folder: Path, records: list[dict[str, Any]]) -> None:
    board = make_board("begun", cells_of(load_suite(suite_in(folder))), records)
    [row] = [row for row in board.pairs[0].rows if row.label == "control"]
    told = " ".join(_how_sure(row))
    assert told.startswith("Against the student that goes on from layers 0, 2 of the teacher by labels alone: ")
    assert "plain" not in told
    assert "needs no teacher" not in told


def test_a_saved_student_needs_no_teacher_and_a_replay_gives_the_same_bits(
    folder: Path, records: list[dict[str, Any]], tmp_path: Path, kdbench: Callable[..., tuple[int, str, str]]
) -> None:
    """`verify` trains what is not in the results: here the pair's teacher, which a control's student begins with."""
    shutil.copytree(folder / "results", tmp_path / "results")
    [record] = [r for r in records if r["label"] == "control" and r["seed"] == 0 and r["settings"]["train"]["epochs"]]
    for path in (tmp_path / "results" / "begun" / "records").glob("*.json"):
        if path.stem != record["key"]:
            path.unlink()
    for path in (tmp_path / "results" / "teachers").glob(f"{record['settings']['begins']['teacher']}.*"):
        path.unlink()
    assert kdbench("export", record["key"], "--output", tmp_path / "net.onnx")[0] == 0
    _, out, err = kdbench("verify", suite_in(tmp_path), "--sample", 1, "--draw", 1)
    assert "epoch replayed: 1 cell" in out, out + err
    assert "weights re-evaluated: 1 student gives what is claimed" in out
    assert "another digest" not in out


@pytest.mark.slow
def test_processes_and_an_order_where_the_control_comes_first_change_nothing(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = run_in(tmp_path, only=["control", "*bert(heads=2, layers=2, width=16)*"], jobs=2)
    states = {r["key"]: r["digests"] for r in records}
    assert len(found) == 2
    assert {r["key"]: r["digests"] for r in found} == {r["key"]: states[r["key"]] for r in found}


def cells(folder: Path, *students: Any, **changes: Any) -> list[Cell]:
    teacher = changes.pop("teacher", TEACHER)
    pairs = [{"teacher": teacher, "student": student} for student in students]
    return cells_of(load_suite(suite_in(folder, pairs=pairs, **changes)))


def test_keys_hold_the_teacher_and_the_layers(tmp_path: Path) -> None:
    """A control does not learn from the pair's teacher: its student begins with that one all the same."""
    control, alone = cells(tmp_path, STUDENT, seeds=[0])
    assert control.identity["begins"] == alone.identity["begins"] == {"teacher": alone.teacher_key, "layers": [0, 2]}
    assert control.teacher_key != alone.teacher_key
    others = [
        cells(tmp_path, {**STUDENT, "from": {"teacher": [2, 0]}}, seeds=[0]),
        cells(tmp_path, {**STUDENT, "head": "new"}, seeds=[0]),
        cells(tmp_path, STUDENT, seeds=[0], teacher={**TEACHER, "dropout": 0.3}),
        cells(tmp_path, STUDENT, seeds=[0], teacher_train={"epochs": 2}),
        cells(tmp_path, PLAIN, seeds=[0]),
    ]
    assert len({control.key, *(found[0].key for found in others)}) == 6
    assert "begins" not in others[-1][0].identity


def test_what_a_cohort_needs_travels_with_it_and_is_not_cleaned_away(tmp_path: Path) -> None:
    control, alone = cells(tmp_path, STUDENT, seeds=[0])
    job = Job([control], (), Place(tmp_path, tmp_path, "cpu"))
    assert teachers_of(job) == [control.teacher_key, alone.teacher_key]
    assert {*needed_by({"settings": control.identity})} == {control.teacher_key, alone.teacher_key}


@pytest.mark.parametrize(
    ("student", "text"),
    [
        ({**STUDENT, "width": 8}, "can't begin with its teacher's weights: that one has another shape for"),
        ({**STUDENT, "from": {"teacher": [0, 3]}}, "begins with layer 3 of its teacher, which has 3 (bert.encoder.la"),
        ({**STUDENT, "from": {"teacher": [0]}}, "has 2 layers (bert.encoder.layer), but begins with 1 of its teacher"),
        ({**STUDENT, "from": {"teacher": [1, 1]}}, "begins with layers [1, 1] of its teacher: one stands there twice"),
        ({**STUDENT, "from": {"teacher": "all"}}, "that one has unknown bert.encoder.layer.2."),
        ({"model": "bilstm", "width": 8, "hidden": 8, "from": {"teacher": "all"}}, "it reads ('ids', 'mask'), its te"),
        ({**STUDENT, "model": "roberta"}, "it has no bert.encoder.layer, as its teacher has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_by_plan_with_its_line(
    tmp_path: Path, kdbench: Callable[..., tuple[int, str, str]], student: dict[str, Any], text: str
) -> None:
    code, out, err = kdbench("plan", suite_in(tmp_path, pairs=[PAIR, {"teacher": TEACHER, "student": student}]))
    assert code == 2
    assert text in out + err
    place = next(line for line in (out + err).splitlines() if text in line).split(": pairs[1]: ")[0]
    assert place.startswith(f"{tmp_path}{os.sep}suite.yaml:")
    assert not (tmp_path / "results" / "teachers").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"from": {}}, "is a row's student, {label: student}, or the teacher, {teacher: all}, {teacher: [0, 2]}"),
        ({"from": {"teacher": "all", "label": "kd"}}, "is a row's student, {label: student}, or the teacher"),
        ({"from": {"teacher": "all", "transforms": ["prune"]}}, "a teacher has none"),
        ({"from": {"teacher": "some"}}, "pairs[0].student.from.teacher: should be 'all', or a list, not 'some'"),
        ({"from": {"teacher": [-1]}}, "from.teacher[0]: should be greater than or equal to 0, not -1"),
        ({"pretrained": True}, "leave `pretrained` and `checkpoint` out"),
    ],
)
def test_mistakes_of_grammar_are_told_with_their_line(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as told:
        load_suite(suite_in(tmp_path, pairs=[{"teacher": TEACHER, "student": {**STUDENT, **change}}]))
    line = next(line for line in str(told.value).splitlines() if text in line)
    assert "suite.yaml:" in line


def digits() -> Task:
    return Task(10, 4, InputSpec((Field("images", (3, 32, 32)),)), batch_size=2, targets=torch.zeros(4).long())


def net(task: Task, *seed: object, **spec: Any) -> Net:
    return build_net(ModelSpec(**spec), task, *seed)


def test_nets_of_pictures_begin_with_layers_too() -> None:
    task, vit = digits(), {"model": "vit_tiny_patch16_224", "img_size": 32, "embed_dim": 24, "num_heads": 2}
    teacher, student = net(task, 0, **vit, depth=3), net(task, 1, **vit, depth=2)
    given, taken = teacher.model.state_dict(), taken_from(teacher, student, [2, 0])
    assert torch.equal(taken["blocks.0.mlp.fc1.weight"], given["blocks.2.mlp.fc1.weight"])
    assert torch.equal(taken["blocks.1.mlp.fc1.weight"], given["blocks.0.mlp.fc1.weight"])
    assert torch.equal(taken["head.weight"], given["head.weight"])
    fresh = taken_from(teacher, student, [2, 0], new_head=True)
    assert torch.equal(fresh["head.weight"], student.model.state_dict()["head.weight"])
    assert torch.equal(fresh["pos_embed"], given["pos_embed"])


def test_a_net_of_stages_begins_with_all_of_a_net_of_its_shape_or_with_nothing() -> None:
    task, small = digits(), {"model": "cifar_resnet20"}
    teacher, student = net(task, 0, **small), net(task, 1, **small)
    assert all(torch.equal(v, teacher.model.state_dict()[k]) for k, v in taken_from(teacher, student, "all").items())
    deeper = net(task, 0, model="cifar_resnet32")
    for layers in ("all", [0, 2, 4]):
        with pytest.raises(UserError, match="that one has unknown layer"):
            taken_from(deeper, student, layers)

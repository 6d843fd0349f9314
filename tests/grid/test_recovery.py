"""A run that meets damage, divergence or a signal: what is whole goes on, and ends with the same digits."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml
from boards import write_leaderboard
from conftest import TINY, without_measures
from grids import grid, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdbench as package
from kdbench.data import load_splits
from kdbench.grid.progress import Bar
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.records import Records
from kdbench.results.schema import Shape
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.train.group import ALONE
from kdbench.train.one_writer import Shelf
from kdbench.train.teacher import _load

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CHECKED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "suite.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        package.run(folder / "suite.yaml", results=folder / "results", device="cpu")
    return folder / "results"


def outcome(results: Path):
    records = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {r["key"]: (r["status"], r["scores"], r["curves"]) for r in records}


# --- damage ---


def test_a_checkpoint_of_another_version_is_not_used(kdbench, suite_file, tmp_path, whole):
    """It is undamaged, but its names are not those of the trial: the student and the teacher begin again."""
    suite, results = suite_file(), tmp_path / "results"
    cell = cells_of(load_suite(suite))[0]
    for folder, key in ((results / "tiny", cell.key), (results / "teachers", cell.teacher_key)):
        Checkpoints(folder / "checkpoints").save(key, {"done": 3, "evaluated": 0, "net": {"a": torch.ones(2)}})
    code, _, err = kdbench("run", suite)
    assert code == 0
    assert f"{cell.title}: its checkpoint is of another version; it starts again" in err
    assert outcome(results) == outcome(whole)
    assert not list(results.rglob("*.ckpt"))


@settings(max_examples=60, **CHECKED)
@given(value=JSON, name=st.sampled_from(["", "scores", "seconds", "settings", "sha256"]), flip=st.integers(0))
def test_any_damage_to_a_teacher(whole, tmp_path, value, name, flip):
    """It is made again, or whole: never another net, nor a score that is none."""
    cell = cells_of(load_suite(whole.parent / "suite.yaml"))[0]
    splits = load_splits("digits", {"size": 8}, tmp_path)
    about = json.loads((whole / "teachers" / f"{cell.teacher_key}.json").read_bytes())
    weights = bytearray((whole / "teachers" / f"{cell.teacher_key}.safetensors").read_bytes())
    folder = tmp_path / "teachers"
    folder.mkdir(exist_ok=True)
    (folder / f"{cell.teacher_key}.json").write_text(json.dumps({**about, name: value} if name else value))
    (folder / f"{cell.teacher_key}.safetensors").write_bytes(weights)
    found = _load(cell, splits, Shelf(tmp_path, ALONE), torch.device("cpu"))
    assert found is None or isinstance(found.scores["top1"], float)
    assert found is None or name != "sha256"
    (folder / f"{cell.teacher_key}.json").write_text(json.dumps(about))
    assert _load(cell, splits, Shelf(tmp_path, ALONE), torch.device("cpu")) is not None
    weights[flip % len(weights)] ^= 1
    (folder / f"{cell.teacher_key}.safetensors").write_bytes(weights)
    assert _load(cell, splits, Shelf(tmp_path, ALONE), torch.device("cpu")) is None


@settings(max_examples=25, **CHECKED)
@given(value=JSON, name=st.sampled_from([*Shape.__annotations__]), inner=st.sampled_from(["", "test_top1", "student"]))
def test_any_value_in_a_record_leaves_a_leaderboard(tmp_path, value, name, inner):
    """The cell counts as not done, or its numbers are numbers."""
    _, cells = grid(tmp_path, ["student", "kd"], seeds=2)
    folder = tmp_path / "grid" / "records"
    folder.mkdir(parents=True, exist_ok=True)
    for place, cell in enumerate(cells):
        made = record(cell, 70.0 + place)
        if place == 0:
            made[name] = {**made[name], inner: value} if inner and isinstance(made.get(name), dict) else value
        (folder / f"{cell.key}.json").write_text(json.dumps(made))
    found = Records(tmp_path, "grid").read_many(cell.key for cell in cells)
    assert len(found) >= len(cells) - 1
    text = write_leaderboard(cells, found.values(), tmp_path / "grid", plots=False)[1]
    assert "nan" not in text.lower()


# --- divergence ---


def test_a_teacher_that_diverges_takes_only_its_own_students_along(kdbench, suite_file, tmp_path, whole):
    wild = {**TINY["pairs"][0], "teacher": {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}}
    suite = suite_file(pairs=[wild, *TINY["pairs"]])
    with pytest.MonkeyPatch.context() as patch:
        make_teacher_diverge(patch, "cifar_resnet8(")
        code, out, _ = kdbench("run", suite)
    assert code == 1
    found = outcome(tmp_path / "results")
    assert {key: found[key] for key in outcome(whole)} == outcome(whole)
    lost = [r for r in Records(tmp_path / "results", "tiny").read_all() if r["key"] not in outcome(whole)]
    assert [r["status"] for r in lost] == ["diverged", "diverged"]
    assert all("diverged: loss/ce was nan in epoch 1" in r["reason"] for r in lost)
    assert "2 cells diverged" in out or "diverged" in out
    assert kdbench("run", suite)[0] == 1


def make_teacher_diverge(patch, name):
    from kdbench.train import teacher as teachers

    train = teachers._train

    def spoiled(cell, net, *others):
        if cell.teacher.short.startswith(name):
            with torch.no_grad():
                next(net.parameters()).fill_(float("nan"))
        return train(cell, net, *others)

    patch.setattr(teachers, "_train", spoiled)


def test_what_failed_in_another_process_is_not_tried_again(kdbench, suite_file, tmp_path, monkeypatch):
    """Two runs began together: the second finds what the first one left, done and failed. A later run tries again."""
    from kdbench import api
    from kdbench.grid.cohort import Worker

    trial, plan = Worker.trial, api._plan
    tried, plans = [], []

    def failing(self, cell, *arguments):
        tried.append(cell.label)
        if cell.label == "kd":
            raise OverflowError("as a method may")
        return trial(self, cell, *arguments)

    monkeypatch.setattr(Worker, "trial", failing)
    monkeypatch.setattr(api, "_plan", lambda *a: plans[0] if plans else plans.append(plan(*a)) or plans[0])
    suite = suite_file()
    for _ in range(2):
        assert kdbench("run", suite)[0] == 1
        assert tried == ["student", "kd"]
    plans.clear()
    assert kdbench("run", suite)[0] == 1
    assert tried == ["student", "kd", "kd"]


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_saves_and_says_how_to_go_on(kdbench, suite_file, tmp_path, whole, monkeypatch, number):
    steps, advance = [0], Bar.advance

    def interrupted(self, *arguments):
        steps[0] += 1
        advance(self, *arguments)
        if steps[0] == (3 if number == signal.SIGTERM else 14):  # the teacher's third step, the students' fourth
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Bar, "advance", interrupted)
    suite, results = suite_file(), tmp_path / "results"
    code, _, err = kdbench("run", suite)
    assert code == 128 + number
    assert "stopping after this step" in err
    assert f"go on with: kdbench run {suite} --results {results} --device cpu" in err
    assert list(results.rglob("*.ckpt"))
    assert kdbench("run", suite)[0] == 0
    assert steps[0] == 20  # none was made twice: 2 epochs of 5 for the teacher, and for its students side by side
    assert outcome(results) == outcome(whole)
    assert not list(results.rglob("*.ckpt"))


@pytest.mark.slow
def test_every_method_goes_on_with_the_same_digits(kdbench, tmp_path, monkeypatch):
    """All that the methods keep between steps is in their checkpoints: stopped after every seventh step of a cohort."""
    every = Path(__file__).parents[2] / "suites" / "all-methods.yaml"
    suite = tmp_path / "suite.yaml"
    suite.write_text(f"extends: {every}\nname: tiny\ntrain: {{epochs: 2, batch_size: 256}}\n")
    steps, advance, stops = [0], Bar.advance, [False]

    def counted(self, *arguments):
        advance(self, *arguments)
        steps[0] += 1
        if stops[0] and steps[0] % 7 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Bar, "advance", counted)
    assert kdbench("run", suite, results=tmp_path / "whole")[0] == 0
    needed, steps[0], stops[0] = steps[0], 0, True
    codes = [kdbench("run", suite)[0]]
    while codes[-1] == 128 + signal.SIGTERM:
        codes.append(kdbench("run", suite)[0])
    assert codes[-1] == 0
    assert len(codes) > 5
    assert steps[0] == needed  # none was made twice
    stopped, whole = outcome(tmp_path / "results"), outcome(tmp_path / "whole")
    assert [key for key in whole if stopped[key] != whole[key]] == []
    assert stopped.keys() == whole.keys()

"""What a run is at work on stays, and what is loaded is what was planned."""

import os
from pathlib import Path

import pytest
import torch
from conftest import TINY

from kdbench.layout import Layout
from kdbench.locks import attempt, is_held
from kdbench.nets import build_net
from kdbench.results.clean import clean, teachers_of, unneeded
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.spec import ModelSpec
from kdbench.vision.batches import picture_task


@pytest.fixture
def old_teacher(tmp_path):
    """One that no record refers to, made a day ago and more."""
    path = Layout(tmp_path).teachers.weights("0123")
    path.parent.mkdir()
    path.write_bytes(b"weights")
    os.utime(path, (0, 0))
    return path


def test_a_teacher_stays_while_a_run_is_at_work(tmp_path, old_teacher):
    """Its suite has no record yet: its first cohort takes more than a day."""
    with attempt(Layout(tmp_path).suite("long").cohort_lock("abc")):
        assert "nothing that could go" in clean(tmp_path, remove=True)
        assert old_teacher.exists()
    assert "a teacher that no record refers to" in clean(tmp_path, remove=True)
    assert not old_teacher.exists()


def test_a_teacher_that_is_being_loaded_stays(tmp_path, old_teacher):
    with attempt(Layout(tmp_path).teachers.lock("0123")):
        clean(tmp_path, remove=True)
        assert old_teacher.exists()


def test_listing_leaves_no_lock_behind(tmp_path, old_teacher):
    clean(tmp_path, remove=False)
    assert [path.name for path in old_teacher.parent.iterdir()] == ["0123.safetensors"]


def test_what_is_listed_is_held(tmp_path):
    folder = Layout(tmp_path).suite("tiny")
    folder.records.mkdir(parents=True)
    with attempt(folder.cohort_lock("abc")):
        pass
    for path, _ in unneeded(tmp_path):
        assert is_held(path)
    assert not is_held(folder.cohort_lock("abc"))


def test_teachers_of_ones_own_data_are_known(suite_file, tmp_path):
    from PIL import Image

    for part in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            path = tmp_path / "pics" / part / name / "0.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (16, 16), (100 * number, 0, 0)).save(path)
    data = {"name": "folder", "path": str(tmp_path / "pics"), "size": 16}
    cell = cells_of(load_suite(suite_file(datasets=[data])), None, Path())[0]
    assert cell.data
    assert list(teachers_of({"settings": cell.identity})) == [cell.teacher_key]


def saved(path, seed):
    net = build_net(ModelSpec(**TINY["pairs"][0]["teacher"]), picture_task(10, 8), seed)
    torch.save(net.model.state_dict(), path)


def test_a_checkpoint_that_was_replaced_after_the_plan(kdbench, suite_file, tmp_path, monkeypatch):
    from kdbench.grid.cohort import Worker

    path, whole = tmp_path / "teacher.pth", Worker.splits
    saved(path, 0)

    def replace(self, cell):
        saved(path, 1)
        return whole(self, cell)

    monkeypatch.setattr(Worker, "splits", replace)
    pair = {"teacher": {**TINY["pairs"][0]["teacher"], "checkpoint": str(path)}, "student": TINY["pairs"][0]["student"]}
    code, out, _ = kdbench("run", suite_file(pairs=[pair]))
    assert code == 1
    assert "is another file than when the run was planned" in out
    assert not list((tmp_path / "results" / "teachers").glob("*.safetensors"))


def test_a_checkpoint_that_is_written_to_while_it_is_read(tmp_path, monkeypatch):
    from kdbench import weights

    path, whole = tmp_path / "teacher.pth", weights.fitting_weights
    saved(path, 0)

    def meanwhile(*given):
        state = whole(*given)
        saved(path, 1)
        return state

    monkeypatch.setattr(weights, "fitting_weights", meanwhile)
    spec = ModelSpec(**TINY["pairs"][0]["teacher"], checkpoint=str(path))
    with pytest.raises(Exception, match="was changed while it was read"):
        build_net(spec, picture_task(10, 8), 0)

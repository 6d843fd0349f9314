"""Results in a store that fsspec knows: what is finished lies there, and another machine goes on from it."""

import json
import sys
import time
from pathlib import Path

import fsspec
import pytest

import kdbench as package
from kdbench.api import cells
from kdbench.errors import UserError
from kdbench.results.store import Store, is_within

TRAIN = {"epochs": 1, "batch_size": 256, "lr": 0.05, "augment": "crop"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine("b")`: from here on this is another machine, with local copies of its own."""

    def become(name: str) -> Path:
        monkeypatch.setattr("kdbench.results.store.cache_folder", lambda part: tmp_path / name / part)
        return tmp_path / name / "results"

    become("a")
    return become


@pytest.fixture
def memory():
    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").store.clear()


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_another_machine_goes_on(kdbench, suite_file, tmp_path, machine, one_thread):
    """A folder by its URL: records, students, teacher and tables lie there, and nothing that is one machine's own."""
    there, url = tmp_path / "shared" / "results", f"file://{tmp_path}/shared/results"
    code, _, err = kdbench("run", suite_file(train=TRAIN), "--only", "student", results=url)
    assert code == 0, err
    folders = {name.rpartition("/")[0] for name in names(there)}
    assert folders >= {"teachers", "tiny", "tiny/records", "tiny/students"}
    assert {"tiny/leaderboard.md", "tiny/cells.csv", "tiny/.suite"} <= names(there)
    assert not [name for name in names(there) if "mlflow" in name or ".lock" in name or "checkpoint" in name]
    assert not Path(f"{there}.owner").exists()
    before = {name: (there / name).stat().st_mtime_ns for name in names(there)}

    machine("b")
    code, _, err = kdbench("leaderboard", suite_file(train=TRAIN), results=url)  # needs no weights
    assert code == 0, err
    assert "tiny/records" in str(names(tmp_path / "b"))
    assert not list((tmp_path / "b").rglob("*.safetensors"))
    code, _, err = kdbench("run", suite_file(train=TRAIN), results=url)
    assert code == 0, err
    assert "1 done" in err
    kept = [name for name in before if name.endswith((".safetensors", ".json"))]
    assert {name: (there / name).stat().st_mtime_ns for name in kept} == {name: before[name] for name in kept}
    assert len(list((there / "tiny" / "records").glob("*.json"))) == 2

    machine("a")  # where the first record is, but not the second
    assert "2 cells, 2 done; nothing to train" in kdbench("run", suite_file(train=TRAIN), results=url)[2]


@pytest.mark.usefixtures("quick_profile")
def test_from_python_and_what_could_not_be_sent_goes_with_the_next(suite_file, tmp_path, machine, memory, monkeypatch):
    suite, url = suite_file(train=TRAIN), "memory://bucket/results"
    options = {"results": url, "data": tmp_path, "device": "cpu"}
    with monkeypatch.context() as patch:
        patch.setattr(Store, "send", lambda self: self.fs.open("memory://nothing/there"))
        with pytest.raises(ConnectionError, match="nothing is lost, it lies in"):
            package.run(suite, **options)
    assert not memory.find("/bucket")
    assert len(package.run(suite, **options)) == 2
    assert len(memory.glob("/bucket/results/tiny/records/*.json")) == 2
    machine("b")
    assert not package.plan(suite, **options).todo
    assert len(cells(suite, **options)) == 2
    assert len(package.leaderboard(suite, **options)) == 2


def test_one_run_at_a_time(memory, machine):
    """Who died is not waited for longer than ten minutes."""
    said = []
    in_use = pytest.raises(UserError, match=r"is in use by .*, process \d+: two runs")
    with Store("memory://bucket/results").owned(said.append), in_use:
        Store("memory://bucket/results").take(said.append)
    assert not memory.exists("/bucket/results.owner")
    memory.pipe_file("/bucket/results.owner", json.dumps({"who": "other", "time": time.time() - 3600}).encode())
    with Store("memory://bucket/results").owned(said.append):
        assert b"other" not in memory.cat_file("/bucket/results.owner")
    assert said == []


def test_a_store_without_locks_says_so(memory, machine, monkeypatch):
    plain, said = type(memory).pipe_file, []

    def pipe_file(self, path, value, mode="overwrite", **given):
        if mode == "create":
            raise NotImplementedError
        plain(self, path, value)

    monkeypatch.setattr(type(memory), "pipe_file", pipe_file)
    with Store("memory://bucket/results").owned(said.append):
        pass
    assert said == ["memory://bucket/results has no locks: start no other run on it at the same moment"]


def test_what_is_no_place_is_one_line(kdbench, suite_file, memory, machine, monkeypatch):
    code, _, err = kdbench("plan", suite_file(), results="nowhere://x")
    assert (code, err.count("\n"), "--results nowhere://x: Protocol not known" in err) == (2, 1, True)
    code, _, err = kdbench("clean", results="memory://x")
    assert (code, "takes a folder of this machine" in err) == (2, True)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        assert "under torchrun give a folder" in kdbench("run", suite_file(), results="memory://x")[2]
    monkeypatch.setitem(sys.modules, "fsspec", None)
    code, _, err = kdbench("plan", suite_file(), results="memory://x")
    assert (code, err) == (2, "--results in a store needs fsspec: pip install 'kdbench[remote]'\n")
    assert not is_within("../x")
    assert not is_within("/x")
    assert is_within("tiny/records/a.json")

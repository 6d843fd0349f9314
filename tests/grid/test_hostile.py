"""Input from outside that is damaged, wrong or hostile: one clear line, nothing executed, nothing taken for done."""

import json
import os
import pickle
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.records import Records
from kdbench.suite.load import load_suite

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


class Hostile:
    """Whoever unpickles this runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@QUICK
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_a_suite(tmp_path, content):
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        load_suite(path)


@QUICK
@given(name=st.sampled_from([*TINY, "validation", "plugins", "teacher_train"]), value=JSON)
def test_any_value_in_a_suite(tmp_path, name, value):
    path = tmp_path / "suite.yaml"
    path.write_text(json.dumps({**TINY, name: value}))  # JSON is YAML
    message = str(path)
    try:
        load_suite(path)
    except UserError as error:
        message = str(error)
    assert message.startswith(str(path))


@QUICK
@given(value=JSON, name=st.sampled_from(["scores", "settings", "profile", "seed", "status", "label", "curves"]))
def test_any_json_as_a_record(tmp_path, value, name):
    records = Records(tmp_path, "suite")
    records.folder.mkdir(parents=True, exist_ok=True)
    whole = {"key": "k", "suite": "suite", "dataset": "d", "teacher": "t", "student": "s", "label": "l", "seed": 0}
    whole |= {"status": "done", "scores": {"test_top1": 1.0}, "settings": {}}
    records.path("k").write_text(json.dumps(value))
    assert records.read("k") is None
    records.path("k").write_text(json.dumps({**whole, name: value}))
    found = records.read("k")
    assert found is None or isinstance(found["scores"], dict)
    assert found is not None or records.damaged


@QUICK
@given(cut=st.integers(0, 400), flip=st.integers(0, 10_000))
def test_any_damage_to_a_checkpoint(tmp_path, cut, flip):
    """The newer of two is damaged: the older one is used."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.remove("k")
    for done in (1, 2):
        checkpoints.save("k", {"done": done, "evaluated": 0, "weights": torch.full((4,), float(done))})
        time.sleep(0.002)
    newer = max((tmp_path / "checkpoints").glob("*"), key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newer.read_bytes())
    content[flip % len(content)] ^= 1
    newer.write_bytes(content[: len(content) - cut])
    found = checkpoints.load("k")
    assert found is not None
    assert found["done"] == 1


def test_a_hostile_checkpoint_of_our_own_form(tmp_path):
    """Its checksum is right, but what it holds is a command."""
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save({"done": 9, "evaluated": 9, "x": Hostile(tmp_path / "mark")}, buffer)
    (tmp_path / "k.0.ckpt").write_bytes(hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue())
    assert Checkpoints(tmp_path).load("k") is None
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("form", ["torch", "pickle", "safetensors"])
def test_a_hostile_teacher(kdbench, suite_file, tmp_path, form):
    path = tmp_path / f"teacher.{'safetensors' if form == 'safetensors' else 'pth'}"
    hostile = {"weight": Hostile(tmp_path / "mark")}
    if form == "torch":
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile))
    pair = {"teacher": {**TINY["pairs"][0]["teacher"], "checkpoint": str(path)}, "student": TINY["pairs"][0]["student"]}
    code, out, err = kdbench("run", suite_file(pairs=[pair]))
    assert code == 2
    assert "pairs[0].teacher.checkpoint: checkpoint" in err
    assert "can't be read safely" in err
    assert len(err.splitlines()) == 1, "nothing was started"
    assert "Traceback" not in out + err
    assert not (tmp_path / "mark").exists()


def test_a_hostile_data_set(kdbench, suite_file, tmp_path, monkeypatch):
    """The archives' md5 is checked before anything is unpickled."""
    monkeypatch.setattr("torchvision.datasets.CIFAR100.url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    folder = tmp_path / "data" / "cifar-100-python"
    folder.mkdir(parents=True)
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Hostile(tmp_path / "mark")))
    monkeypatch.setattr("kdbench.train.arithmetic.Verdicts.prove", lambda *a: [])  # of what will never train
    suite = suite_file(datasets=["cifar100"])
    code, _, err = kdbench("run", suite, "--data", tmp_path / "data")
    assert code == 1  # the cells that need the data failed, each with this reason
    assert "not found whole" in err
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def photographs(tmp_path):
    """Two classes of six pictures, one of them broken."""
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "photographs" / part / name
            folder.mkdir(parents=True)
            for place in range(6):
                picture = draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"{place}.png")
    broken = tmp_path / "photographs" / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    return tmp_path / "photographs"


def test_broken_pictures_stop_or_are_left_out(photographs, capsys):
    place = {"path": str(photographs), "size": 8}
    with pytest.raises(UserError, match=r"1 of 12 pictures .*dog/3\.png.*broken: skip"):
        load_splits("folder", {**place, "broken": "stop"}, Path())
    splits = load_splits("folder", {**place, "broken": "skip"}, Path())
    assert (len(splits.train), len(splits.test)) == (11, 12)
    assert splits.train.targets.tolist() == [0] * 6 + [1] * 5
    assert "dog/3.png; they are left out" in capsys.readouterr().err


# --- MLflow servers that are none ---


def serve_garbage(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"\x00\xffno http at all\r\n\r\n")
    connection.close()


@pytest.fixture(params=["garbage", "hangs"])
def false_server(request):
    """Accepts, then answers nonsense, or never."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def work() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if request.param == "garbage":
                    serve_garbage(connection)
                held.append(connection)

        threading.Thread(target=work, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


def test_a_false_mlflow_server_changes_nothing(kdbench, suite_file, tmp_path, false_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("kdbench.api.PATIENCE", 3.0)
    suite = suite_file()
    start = time.monotonic()
    code, _, err = kdbench("run", suite, "--tracking-uri", false_server)
    assert code == 0
    assert time.monotonic() - start < 60
    assert "MLflow" in err
    assert "kdbench sync" in err
    assert len(list((tmp_path / "results" / "tiny" / "records").glob("*.json"))) == 2


def test_a_lost_mlflow_database_is_rebuilt(kdbench, suite_file, tmp_path):
    import sqlite3

    suite = suite_file()
    assert kdbench("run", suite)[0] == 0
    copy = tmp_path / "copy"  # of the records alone
    shutil.copytree(tmp_path / "results" / "tiny", copy / "tiny")
    for _ in range(2):
        assert kdbench("sync", suite, results=copy)[0] == 0
        with sqlite3.connect(copy / "mlflow.db") as database:
            keys = "select value from tags join runs using (run_uuid) where key = 'kdbench.key'"
            rows = [key for (key,) in database.execute(f"{keys} and lifecycle_stage = 'active'")]
        assert len([key for key in rows if not key.startswith("summary")]) == 2


# --- doctor and clean ---


def test_doctor(kdbench, tmp_path, suite_file):
    kdbench("run", suite_file())
    code, out, _ = kdbench("doctor", "--data", tmp_path)
    assert code == 0
    assert "tiny: 2 records" in out
    assert "all is well" in out
    record = next((tmp_path / "results" / "tiny" / "records").glob("*.json"))
    record.write_text("{")
    code, out, _ = kdbench("doctor", "--data", tmp_path, "--tracking-uri", "http://127.0.0.1:9")
    assert code == 1
    assert "2 to be mended" in out
    assert f"!!  record {record} can't be read" in out
    assert "!!  MLflow: no server answers at http://127.0.0.1:9" in out


def test_doctor_finds_what_is_no_store(tmp_path):
    from kdbench.commands.doctor import store

    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    [(kind, line)] = store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert kind == "!!"
    assert "can't be read" in line
    assert [kind for kind, _ in store("databricks")] == ["!!"]


def test_a_teachers_own_teacher_is_needed_too(suite_file):
    from kdbench.results.clean import teachers_of
    from kdbench.suite.cells import cells_of

    above = {"model": "cifar_resnet20", "taught_by": "cifar_resnet56", "objective": {"ce": 1, "kd": 1}}
    teacher = {"model": "cifar_resnet14", "taught_by": above, "objective": {"kd": 1}}
    [cell] = cells_of(
        load_suite(suite_file(pairs=[{"teacher": teacher, "student": "cifar_resnet8"}], methods={"a": {"kd": 1}}))
    )
    assert len(cell.lineage) == 3
    assert list(teachers_of({"settings": cell.identity})) == [link.teacher_key for link in cell.lineage]


def test_clean(kdbench, tmp_path, suite_file):
    suite = suite_file()
    kdbench("run", suite)
    results = tmp_path / "results"
    students = results / "tiny" / "students"
    kept = {path for path in results.rglob("*") if path.is_file() and path.suffix != ".lock"}
    [first, _] = sorted(students.glob("*.safetensors"))
    checkpoint = results / "tiny" / "checkpoints" / f"{first.stem}.0.ckpt"
    teacher, half = results / "teachers" / "0123.safetensors", results / "tiny" / "records" / ".a.json.abcd1234"
    [known] = (results / "teachers").glob("*.json")
    finished = results / "teachers" / "checkpoints" / f"{known.stem}.1.ckpt"
    rubbish = [checkpoint, students / "feed.safetensors", teacher, half, finished]
    for path in rubbish:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    out = kdbench("clean")[1]
    assert all(str(path) in out and path.exists() for path in rubbish)
    assert "--yes" in out
    kdbench("clean", suite, "--yes")
    assert {path for path in rubbish if path.exists()} == {teacher, finished}  # of no suite alone
    kdbench("clean", "--yes")
    assert not any(path.exists() for path in rubbish)
    assert all(path.exists() for path in kept)
    assert "nothing that could go" in kdbench("clean")[1]
    assert "nothing to train" in kdbench("run", suite)[2]

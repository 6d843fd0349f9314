"""A trained student, loaded again and written as one file, says what it said when it was measured."""

import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import kdbench
from kdbench.commands.export import export
from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.results.card import as_metadata
from kdbench.results.mlflow_runs import MlflowRuns
from kdbench.train.evaluation import evaluate_one
from kdbench.train.load import load_deployed, load_student, load_weights_of, task_of_record

METHODS = {"student": {"ce": 1}, "simkd": {"simkd": 1}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny suite, trained once: a plain student, and one whose method leaves layers in it."""
    import yaml
    from conftest import TINY, without_measures

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export")
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({**TINY, "methods": METHODS}))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        kdbench.run(path, results=folder / "results", device="cpu")
    return folder / "results"


def record_of(results: Path, label: str) -> dict:
    records = [json.loads(path.read_text()) for path in (results / "tiny" / "records").glob("*.json")]
    return next(record for record in records if record["label"] == label)


@pytest.mark.parametrize("label", METHODS)
def test_the_loaded_student_scores_what_the_record_says(results: Path, label: str) -> None:
    record = record_of(results, label)
    net = load_deployed(record["key"], results).delivered
    scores = evaluate_one(net, load_splits("digits", {"size": 8}, Path()).test, "fp32").scores
    assert scores["top1"] == pytest.approx(record["scores"]["test_top1"], abs=1e-9)
    assert scores["nll"] == pytest.approx(record["scores"]["test_nll"], rel=1e-5)


def test_the_timm_model_takes_normalised_pictures(results: Path) -> None:
    key = record_of(results, "student")["key"]
    model, deployed = kdbench.load_student(key[:8], results), load_deployed(key, results)
    images = deployed.inputs.random(3)
    cfg = model.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    assert not model.training
    torch.testing.assert_close(model((images - mean) / std), deployed(images))
    by_path = load_student(results / "tiny" / "records" / f"{key}.json")
    torch.testing.assert_close(by_path.state_dict(), model.state_dict())


def test_layers_that_stay_are_not_dropped_silently(results: Path) -> None:
    with pytest.raises(UserError, match="simkd leaves layers in its student"):
        load_student(record_of(results, "simkd")["key"], results)


@pytest.mark.parametrize("label", METHODS)
def test_onnx_gives_the_same_logits(results: Path, label: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    record, path = record_of(results, label), tmp_path / "student.onnx"
    written, line = export(record["key"], "onnx", path, results)
    assert "0..1" in line
    images = task_of_record(record).inputs.random(7)  # another batch size than the exporter saw
    [logits] = onnxruntime.InferenceSession(written).run(None, {"images": images.numpy()})
    expected = load_deployed(record["key"], results)(images)
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=0)


def test_the_file_speaks_for_itself(results: Path, tmp_path: Path) -> None:
    """The same in the file and beside it; digits name no classes and are inputs as they come."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    record, path = record_of(results, "student"), tmp_path / "student.onnx"
    export(record["key"], "onnx", path, results)
    told = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    beside = json.loads(path.with_suffix(".json").read_text())
    assert told == as_metadata(beside)
    assert json.loads(told["classes"]) == [str(number) for number in range(10)]
    assert json.loads(told["inputs"])["images"]["shape"] == [3, 8, 8]
    score = beside["score"]
    assert score["test"] == record["scores"]["test_top1"]
    assert score["num_test"] == 597
    p, n, z = score["test"] / 100, 597, 1.959964  # Wilson 1927: where |p - p0| is z standard errors at p0
    for end in score["interval_95"]:
        assert abs(p - end / 100) == pytest.approx(z * (end / 100 * (1 - end / 100) / n) ** 0.5, rel=1e-5)
    taken = tmp_path / "other.onnx"
    taken.with_suffix(".json").write_text("precious")
    with pytest.raises(UserError, match=r"other.json is there already"):
        export(record["key"], "onnx", taken, results)


@pytest.mark.parametrize("label", METHODS)
def test_safetensors(results: Path, label: str, tmp_path: Path) -> None:
    record, path = record_of(results, label), tmp_path / "student.safetensors"
    export(record["key"], "safetensors", path, results)
    with safe_open(path, "pt") as file:
        about, names = file.metadata(), set(file.keys())
    assert json.loads(about["model"])["model"] == "cifar_resnet8"
    assert (about["num_classes"], json.loads(about["input_size"])) == ("10", [3, 8, 8])
    assert any(name.startswith("method.") for name in names) == (label == "simkd")


def test_a_file_that_differs_is_not_left(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.commands.export.write_safetensors", lambda *a: a[2].write_bytes(b"") * 1.0 + 1.0)
    path = tmp_path / "student.safetensors"
    with pytest.raises(UserError, match="differ from the student's by 1"):
        export(record_of(results, "student")["key"], "safetensors", path, results)
    assert not path.exists()


def test_a_file_that_is_there_stays(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, path = record_of(results, "student")["key"], tmp_path / "student.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(UserError, match=r"student.safetensors is there already; --force replaces it"):
        export(key, "safetensors", path, results)
    with monkeypatch.context() as patch:
        patch.setattr("kdbench.commands.export.TOLERANCE", -1.0)
        with pytest.raises(UserError, match="differ from the student's by"):
            export(key, "safetensors", path, results, force=True)
    assert path.read_bytes() == b"precious"
    export(key, "safetensors", path, results, force=True)
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".json"), path]
    with safe_open(path, "pt") as file:
        assert file.metadata()["kdbench.key"] == key


def test_an_export_that_is_killed_leaves_nothing_half(results: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def killed(*_: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("kdbench.commands.export.write_safetensors", killed)
    path = tmp_path / "student.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt):
        export(record_of(results, "student")["key"], "safetensors", path, results, force=True)
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["nothing", "garbage", "huge header", "another net", "another cell", "a folder"])
def test_a_students_file_that_is_not_what_its_record_says(results: Path, tmp_path: Path, kind: str) -> None:
    whole, other = record_of(results, "student"), record_of(results, "simkd")
    path = tmp_path / f"{whole['key']}.safetensors"
    if kind == "a folder":
        path.mkdir()
    elif kind == "another net":
        path.write_bytes(save({"conv.weight": torch.zeros(3)}))
    elif kind == "another cell":
        path.write_bytes((results / "tiny" / "students" / f"{other['key']}.safetensors").read_bytes())
    else:
        bytes_of = {"nothing": b"", "garbage": b"garbage" * 99, "huge header": b"\xff" * 7 + b"\x7f{}"}
        path.write_bytes(bytes_of[kind])
    with pytest.raises(UserError) as error:
        load_weights_of(whole, path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["*", "**", "?", "[0-9a-f]", "a/b"])
def test_a_key_is_no_pattern(results: Path, key: str) -> None:
    with pytest.raises(UserError, match="no record for key"):
        load_student(key, results)


def test_records_without_shapes_ask_the_data_set(results: Path) -> None:
    record = record_of(results, "student")
    old = {k: v for k, v in record.items() if k not in ("num_classes", "inputs")}
    older = {**old, "num_classes": 10, "input_size": [3, 8, 8]}
    for given in (record, old, older):
        task = task_of_record(given)
        assert (task.num_classes, task.inputs.shape) == (10, (3, 8, 8))


def test_from_mlflow(results: Path) -> None:
    key, uri = record_of(results, "student")["key"], f"sqlite:///{results / 'mlflow.db'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = MlflowRuns("tiny", results, uri).find(key)[0].info.run_id
        by_run, by_key = (load_student(name, tracking_uri=uri) for name in (run, key))
        with pytest.raises(UserError, match="has no student"):
            load_student("nonsense", tracking_uri=uri)
    expected = load_student(key, results).state_dict()
    torch.testing.assert_close(by_run.state_dict(), expected)
    torch.testing.assert_close(by_key.state_dict(), expected)


def test_a_leaderboard_from_mlflow_alone(results: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{results / 'mlflow.db'}"
    table = kdbench.leaderboard(results.parent / "suite.yaml", results=tmp_path, mlflow=uri)
    mine = kdbench.leaderboard(results.parent / "suite.yaml", results=results)
    pd.testing.assert_frame_equal(table, mine)
    assert list(mine["n"]) == [1, 1]
    page = (results / "tiny" / "leaderboard.html").read_text()
    runs = {line.split('"')[3] for line in (results / "tiny" / "mlflow.jsonl").read_text().splitlines()}
    assert sum(address in page for address in runs) == 2  # all but the summary's
    with pytest.raises(UserError, match="no finished cell of suite 'tiny'"):
        kdbench.leaderboard(results.parent / "suite.yaml", results=tmp_path, mlflow=f"sqlite:///{tmp_path / 'new.db'}")


def test_mistakes(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record for key 'zzz'"):
        load_student("zzz", results)
    with pytest.raises(UserError, match="2 records"):
        load_student("", results)
    with pytest.raises(UserError, match="no such record"):
        load_student(tmp_path / "none.json")
    failed = tmp_path / "tiny" / "records"
    failed.mkdir(parents=True)
    record = {**record_of(results, "student"), "status": "failed"}
    (failed / f"{record['key']}.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is failed: it left no student"):
        load_student(record["key"], tmp_path)


@pytest.mark.parametrize(("asked", "name", "words"), [
    (None, "student.json", "must end in .onnx or .safetensors"),
    (None, "student", "must end in"),
    ("onnx", "student.pt", "must end in"),
    ("onnx", "student.safetensors", "is another form than --format onnx"),
])  # fmt: skip
def test_a_file_is_what_its_name_says(results: Path, tmp_path: Path, asked: str | None, name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(record_of(results, "student")["key"], asked, tmp_path / name, results, force=True)
    assert [*tmp_path.iterdir()] == []


def test_the_name_alone_says_the_form(results: Path, tmp_path: Path) -> None:
    path, _ = export(record_of(results, "student")["key"], None, tmp_path / "student.safetensors", results)
    with safe_open(path, "pt") as file:
        assert file.metadata()["num_classes"] == "10"


def test_no_record_is_replaced(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = record_of(results, "student")["key"]
    place = results / "tiny" / "records" / f"{key}.json"
    before = place.read_bytes()
    monkeypatch.chdir(place.parent)
    with pytest.raises(UserError, match="is for records"):
        export(key, "onnx", None, results, force=True)
    assert place.read_bytes() == before

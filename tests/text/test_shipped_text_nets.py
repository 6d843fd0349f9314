"""What is shipped of a net of texts needs nothing that it began with, and reads its own tokenizer's numbers alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml

from kdbench import load_deployed, load_student
from kdbench.nets import build_net
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.text.corpus import Tokens, unread
from kdbench.text.tokens import MADE, tokenizer

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread", "quick_profile")
TINY: dict[str, Any] = {"model": "bert", "layers": 2, "width": 16, "heads": 2}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, kdbench: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Six texts of two classes by two tokenizers; the second is that of pretrained weights in `begun`."""
    monkeypatch.chdir(tmp_path)
    for part in ("train", "val"):
        rows = [{"text": f"{word} words {k}", "label": word} for k in range(8) for word in ("good", "bad")]
        (tmp_path / "data" / "texts").mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, rows)) + "\n"
        (tmp_path / "data" / "texts" / f"{part}.jsonl").write_text(lines)
    net = build_net(ModelSpec(**TINY), unread(("a", "b"), Tokens(vocabulary=300, length=24)), 0)
    net.model.bert.save_pretrained(tmp_path / "begun")
    tokenizer(MADE, ["good words bad words"], 300).save(str(tmp_path / "begun" / "tokenizer.json"))
    return kdbench


def suite(tmp_path: Path, dataset: dict[str, Any], pair: dict[str, Any]) -> Path:
    path = tmp_path / "suite.yaml"
    train = {"epochs": 1, "batch_size": 8, "optimizer": "adamw", "lr": 0.001, "augment": "none"}
    given = {"name": "text_folder", "path": "texts", "length": 16, "vocabulary": 300, **dataset}
    text = {"name": "shipped", "datasets": [given], "pairs": [pair], "methods": {"student": {"ce": 1}}, "seeds": [0]}
    path.write_text(yaml.safe_dump(text | {"train": train}), encoding="utf-8")
    return path


def record_of(tmp_path: Path) -> dict[str, Any]:
    [path] = (tmp_path / "results" / "shipped" / "records").glob("*.json")
    record: dict[str, Any] = json.loads(path.read_bytes())
    assert record["status"] == "done", record["reason"]
    return record


def test_a_student_is_built_again_without_the_weights_that_it_began_with(tmp_path: Path, run: Run) -> None:
    student = {"model": "bert", "weights": "begun", "keep": [1], "reads": "first"}
    path = suite(
        tmp_path, {"tokenizer": "begun"}, {"teacher": {"model": "bert", "weights": "begun"}, "student": student}
    )
    code, out, err = run("run", path)
    assert code == 0, out + err
    record = record_of(tmp_path)
    before = load_deployed(record["key"], tmp_path / "results")
    inputs = before.inputs.random(3, generator=torch.Generator().manual_seed(0))
    expected = before(inputs)
    (tmp_path / "begun" / "config.json").unlink()
    (tmp_path / "begun" / "model.safetensors").unlink()
    again = load_deployed(record["key"], tmp_path / "results")
    assert again(inputs).equal(expected)
    assert len(again.delivered.net.model.bert.encoder.layer) == 1
    code, out, err = run("export", record["key"], "--format", "safetensors")
    assert code == 0, err
    load_student(record["key"], tmp_path / "results").save_pretrained(tmp_path / "own")
    (tmp_path / "own" / "tokenizer.json").write_bytes((tmp_path / "begun" / "tokenizer.json").read_bytes())
    spec = {"model": "bert", "weights": str(tmp_path / "own"), "keep": [0], "labels": ["bad", "good"]}
    task = unread(("bad", "good"), Tokens(tokenizer=str(tmp_path / "own"), length=16))
    later = build_net(ModelSpec(**spec), task, 1).eval()
    torch.testing.assert_close(later(inputs).logits, expected)


@pytest.mark.long
def test_a_net_is_not_shipped_with_the_numbers_of_another_s_tokenizer(tmp_path: Path, run: Run) -> None:
    teacher = {"model": "bert", "weights": "begun", "reads": "second"}
    path = suite(tmp_path, {"second": "begun"}, {"teacher": teacher, "student": TINY})
    code, out, err = run("run", path)
    assert code == 0, out + err
    record = record_of(tmp_path)
    assert [field["name"] for field in record["inputs"]["fields"]] == ["ids", "mask", "ids_2", "mask_2"]
    student = load_deployed(record["key"], tmp_path / "results")
    assert list(student.inputs.blank(1)) == ["ids", "mask"]
    code, out, err = run("export", record["key"], "--format", "onnx", "--output", tmp_path / "net.onnx")
    assert code == 0, err
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert [given.name for given in session.get_inputs()] == ["ids", "mask"]


def test_methods_for_a_pair_of_texts(tmp_path: Path, run: Run) -> None:
    small = "{model: bert, layers: 1, width: 8, heads: 2}"
    pair = ("--pair", small, "{model: bilstm, width: 8, hidden: 8}")
    code, out, err = run("list", "methods", "*hidden*", *pair, "--dataset", "docstrings")
    assert code == 0, err
    assert out.count("yes") == 2
    code, out, err = run("list", "methods", "kd", *pair)
    assert code == 2
    assert "`--dataset NAME`, see `kdbench list datasets`" in err
    code, out, err = run("list", "methods", "kd", *pair, "--dataset", "docstring")
    assert code == 2
    assert "did you mean 'docstrings'?" in err

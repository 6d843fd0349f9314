"""The engine's promises on texts: pairing, a cohort changes nothing, nor does an interruption; and a run as a whole."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from tokenizers import Tokenizer

from kdbench import load_deployed
from kdbench.data import Splits, load_splits
from kdbench.nets import Net, build_net
from kdbench.suite.load import Train, objective
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.objective import built_objective
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
TEACHER = {"model": "bert", "layers": 2, "width": 16, "heads": 2}
STUDENT = {**TEACHER, "width": 8}  # drop-out is the kind's own, 0.1: each member has a random state of its own
DATA = {"per_class": 16, "vocabulary": 400, "length": 16}
RECIPE = {"epochs": 2, "batch_size": 16, "optimizer": "adamw", "lr": 0.003, "augment": "none"}
ROWS: dict[str, Any] = {
    "student": {"ce": 1},
    "kd": {"ce": 0.1, "kd": 0.9},
    "distilbert": {"ce": 1, "kd": 1, "hidden_cosine": 1},
    "tinybert": {"ce": 1, "hidden": {"layers": [-1]}, "attention_scores": {"layers": [-1]}, "embedding_layer": 1},
    "minilm": {"ce": 1, "attn": {"heads": "matched"}, "value_relations": 1},
    "patient, crd": {"ce": 1, "patient": 10, "crd": {"negatives": 8}},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    settings = {**DATA, "tokenizer": "bpe", "second": None}
    return load_splits("docstrings", settings, tmp_path_factory.mktemp("none"), 0.1)


@pytest.fixture(scope="module")
def teacher(splits: Splits) -> Net:
    return freeze(build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0), CPU)


def trial(row: str, splits: Splits, teacher: Net) -> Trial:
    net, train = build_net(ModelSpec(**STUDENT), splits.task, "student", 0), Train(**RECIPE)
    task = training_task(splits.task, train, splits.train.targets)
    return Trial(net, built_objective(objective(ROWS[row]), net, teacher, task, CPU, 0), train, CPU, 0)


def assert_same(one: Trial, other: Trial) -> None:
    assert one.status == other.status == "done", (one.reason, other.reason)
    for part in ("net", "objective"):
        mine, theirs = one.state()[part], other.state()[part]
        assert mine.keys() == theirs.keys()
        assert not [name for name in mine if not torch.equal(mine[name], theirs[name])]
    assert one.curves == other.curves


@pytest.fixture(scope="module")
def together(splits: Splits, teacher: Net) -> dict[str, Trial]:
    torch.set_num_threads(1)
    members = {row: trial(row, splits, teacher) for row in ROWS}
    train_cohort(Cohort(teacher, splits, Train(**RECIPE).batches, 0), list(members.values()))
    return members


def test_all_start_from_the_same_student(splits: Splits, teacher: Net) -> None:
    first, *others = [trial(row, splits, teacher).net.state_dict() for row in ROWS]
    assert all(torch.equal(other[name], first[name]) for other in others for name in first)


@pytest.mark.parametrize("row", ["student", "tinybert", "patient, crd"])
def test_a_cohort_changes_nothing(row: str, splits: Splits, teacher: Net, together: dict[str, Trial]) -> None:
    alone = trial(row, splits, teacher)
    train_cohort(Cohort(teacher, splits, Train(**RECIPE).batches, 0), [alone])
    assert_same(alone, together[row])
    assert alone.curves["test_top1"][-1] > 100 / 7 / 2


def test_an_interruption_changes_nothing(splits: Splits, teacher: Net, together: dict[str, Trial]) -> None:
    first, steps = trial("minilm", splits, teacher), iter(range(100))
    hooks = Hooks(stop=lambda: next(steps) == 8)  # amidst the second epoch, among batches of several lengths
    assert not train_cohort(Cohort(teacher, splits, Train(**RECIPE).batches, 0, hooks), [first])
    second = trial("minilm", splits, teacher)
    second.load_state(first.state())
    train_cohort(Cohort(teacher, splits, Train(**RECIPE).batches, 0), [second])
    assert_same(second, together["minilm"])


def test_a_run_and_its_export(tmp_path: Path, kdbench: Callable[..., tuple[int, str, str]]) -> None:
    suite = {
        "name": "texts",
        "datasets": [{"name": "docstrings", **DATA}],
        "pairs": [{"teacher": TEACHER, "student": STUDENT}],
        "methods": {"student": {"ce": 1}, "kd": ROWS["kd"], "maps": {"ce": 1, "at": 1}},
        "seeds": [0],
        "train": {**RECIPE, "epochs": 1},
    }
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    code, out, err = kdbench("run", path)
    assert code == 0, out + err
    records = [json.loads(p.read_bytes()) for p in (tmp_path / "results" / "texts" / "records").glob("*.json")]
    found = {record["label"]: record for record in records}
    assert found["maps"]["status"] == "skipped"
    assert found["maps"]["reason"] == "at needs feature maps [B, C, H, W]; the student gives sequences [B, L, D]"
    for label in ("student", "kd"):
        assert found[label]["status"] == "done"
        assert found[label]["inputs"]["fields"][0]["name"] == "ids"
        assert found[label]["profile"]["student"]["macs"] > 0
    student = load_deployed(found["kd"]["key"], tmp_path / "results")
    assert student(student.inputs.random(3)).shape == (3, 7)

    own = found["kd"]["profile"]["student"]
    assert own["macs_at_4"] < own["macs_at_8"] < own["macs_at_12"] < own["macs"]
    assert own["cpu_ms_b1_at_4"] > 0
    assert own["macs"] < own["macs_at_32"] < own["macs_at_128"]
    assert own["cpu_ms_b1_at_128"] > 0
    board = (tmp_path / "results" / "texts" / "leaderboard.md").read_text(encoding="utf-8")
    assert re.search(
        r"In other shapes \(teacher / student, ms\): 4: [\d.]+ / [\d.]+, .*32: .*, 128: [\d.]+ / [\d.]+\.", board
    )
    output = tmp_path / "net.onnx"
    code, out, err = kdbench("export", found["kd"]["key"], "--output", output)
    assert code == 0, err
    assert f"{tmp_path / 'net.tokenizer.json'} belongs to it" in out
    session = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "net.tokenizer.json"))
    for text in ("A few words about arrays", "words " * 100):  # lengths that were never a bucket's
        read = tokenizer.encode(text)
        assert len(read.ids) <= DATA["length"]
        given = {"ids": torch.tensor([read.ids]), "mask": torch.tensor([read.attention_mask])}
        [logits] = session.run(["logits"], {name: x.numpy() for name, x in given.items()})
        torch.testing.assert_close(torch.from_numpy(logits), student(given), rtol=1e-4, atol=1e-4)

"""What `examples/` and the README teach: each is run, and touches nothing but its own files."""

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import without_measures
from documents import readme_block
from torch import nn

import kdbench as package
from kdbench.api import Options, run_suite
from kdbench.data import load_splits
from kdbench.method.contract import Batch, Outputs
from kdbench.nets import NETS, build_net
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_plugin
from kdbench.suite.spec import ModelSpec
from kdbench.train.objective import Objective

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def short(tmp_path: Path) -> Callable[..., Path]:
    """`short("vectors")`: examples/vectors.yaml with two epochs and one seed."""

    def write(name: str, **changes: Any) -> Path:
        path, given = tmp_path / f"{name}.yaml", EXAMPLES / f"{name}.yaml"
        train = {"epochs": 2, "batch_size": 64, **changes.pop("train", {})}
        suite = {"extends": str(given), "name": name, "seeds": [0], "train": train, **changes}
        path.write_text(yaml.safe_dump(suite))
        return path

    return write


def records(results: Path, suite: str) -> dict[str, Any]:
    """By label."""
    found = [json.loads(path.read_text()) for path in (results / suite / "records").glob("*.json")]
    return {record["label"]: record for record in found}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """examples/vectors.yaml, run once: its results folder, and what was printed."""
    folder = tmp_path_factory.mktemp("vectors")
    suite = {"extends": str(EXAMPLES / "vectors.yaml"), "name": "vectors", "seeds": [0], "train": {"epochs": 2}}
    (folder / "vectors.yaml").write_text(yaml.safe_dump(suite))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        outcome = run_suite(folder / "vectors.yaml", Options(results=folder / "results", device="cpu"))
    assert outcome.exit_code == 0
    return folder / "results", outcome.text


def test_a_hundred_lines_add_a_domain(vectors: tuple[Path, str]) -> None:
    """Data set and net of vectors stand in one plugin file; teacher, record, leaderboard are the engine's."""
    results, text = vectors
    assert len((EXAMPLES / "vectors.py").read_text().splitlines()) <= 100
    found = records(results, "vectors")
    assert {k: record["status"] for k, record in found.items()} == dict.fromkeys(("student", "kd", "rkd"), "done")
    for record in found.values():
        assert record["scores"]["test_top1"] > 63  # the larger class has 62.6%
        assert record["inputs"]["fields"][0]["shape"] == [30]
        assert len(record["test_top1_per_class"]) == 2
    assert len(list((results / "teachers").glob("*.json"))) == 1
    assert "| rkd " in text
    assert (results / "vectors" / "leaderboard.html").is_file()


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
def test_a_student_of_another_domain_is_exported(
    kdbench: Run, vectors: tuple[Path, str], tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its net is not registered yet, as in a process of its own: the plugin is named."""
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs the extra `export`")
    monkeypatch.delitem(NETS.entries, "mlp")
    for name in [name for name in sys.modules if name.startswith("kdbench_plugin_")]:
        monkeypatch.delitem(sys.modules, name)
    record, path = records(vectors[0], "vectors")["kd"], tmp_path / f"student.{form}"
    words = ("export", record["key"], "--format", form, "--output", path)
    assert "'mlp'" in kdbench(*words, results=vectors[0])[2]
    code, out, err = kdbench(*words, "--plugin", EXAMPLES / "vectors.py", results=vectors[0])
    assert code == 0, err
    assert "takes them as they are" in out
    assert path.stat().st_size > 500


def test_a_student_of_another_domain_is_loaded(vectors: tuple[Path, str]) -> None:
    record = records(vectors[0], "vectors")["kd"]
    student = package.load_student(record["key"], vectors[0])
    test = load_splits("tumours", {}, Path()).test
    top1 = 100 * float((student(test.values).argmax(1) == test.targets).double().mean())
    assert top1 == pytest.approx(record["scores"]["test_top1"])


def test_settings_of_a_registered_net_are_checked(short: Callable[..., Path]) -> None:
    pair = {"teacher": {"model": "mlp", "widht": 8, "img_size": 32}, "student": {"model": "mlp", "pretrained": True}}
    with pytest.raises(package.UserError) as caught:
        load_suite(short("vectors", pairs=[pair, {"teacher": "mlp", "student": {"model": "mlp", "depth": "two"}}]))
    text = str(caught.value)
    assert re.search(r"vectors\.yaml:\d+: pairs\[0\]\.teacher\.widht: .*width", text)
    assert re.search(r"pairs\[0\]\.teacher\.img_size: ", text)
    assert re.search(r"pairs\[0\]\.student\.pretrained: mlp has no pretrained weights", text)
    assert re.search(r"pairs\[1\]\.student\.depth: .*'two'", text)
    assert len(text.splitlines()) == 4


def test_a_net_of_ones_own_for_pictures(kdbench: Run, short: Callable[..., Path], tmp_path: Path) -> None:
    tiny = {"teacher": {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}, "student": "three_blocks"}
    code, _, err = kdbench("run", short("picture_net", pairs=[tiny], train={"batch_size": 256}))
    assert code == 0, err
    found = records(tmp_path / "results", "picture_net")
    assert {record["status"] for record in found.values()} == {"done"}  # at reads the maps of `feature_modules`
    assert found["at"]["scores"]["test_top1"] != found["student"]["scores"]["test_top1"]


def test_a_method_of_ones_own(kdbench: Run, short: Callable[..., Path], tmp_path: Path) -> None:
    tiny = {"teacher": {"model": "cifar_resnet14", "widths": [4, 4, 8, 8]}, "student": "cifar_resnet8"}
    code, _, err = kdbench("run", short("cosine", pairs=[tiny], train={"batch_size": 256}), "--only", "cosine")
    assert code == 0, err
    curve = records(tmp_path / "results", "cosine")["cosine"]["curves"]["loss/cosine"]
    assert curve[-1] < curve[0]


def test_the_commands_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick_profile: None
) -> None:
    """As it stands, but with two epochs and one seed: the suite is the copy beside it."""
    for name in ("from_python.py", "vectors.py"):
        (tmp_path / name).write_text((EXAMPLES / name).read_text())
    suite = yaml.safe_load((EXAMPLES / "vectors.yaml").read_text())
    suite |= {"seeds": [0], "plugins": [str(EXAMPLES / "vectors.py")]}
    suite["train"]["epochs"] = 2
    (tmp_path / "vectors.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path(str(tmp_path / "from_python.py"))
    out = capsys.readouterr().out
    measured = left["table"].set_index("objective").loc["kd", "test_top1"]
    assert f"kd · seed 0: {measured:.2f}% top-1" in out
    assert "3 cells, 0 done, 3 to train" in out


# --- the README's method ---------------------------------------------------------------------------------------------


def test_the_readmes_method_is_the_example() -> None:
    assert readme_block("Add a method", "python") == (EXAMPLES / "cosine.py").read_text()


def test_the_readmes_method_teaches_wherever_the_student_stands(tmp_path: Path) -> None:
    """The gradient reaches the student also where its embedding points away from the teacher's, and never the teacher.

    (A loss that is flat below some cosine would teach nothing to half of all students at their start.)
    """
    (tmp_path / "cosine.py").write_text(readme_block("Add a method", "python"))
    suite = yaml.safe_load(readme_block("Add a method", "yaml"))
    suite["plugins"] = [str(EXAMPLES / "cosine.py")]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(suite))
    loaded = load_suite(tmp_path / "mine.yaml")
    phases = next(iter(loaded.objectives["cosine"].values()))
    task = load_splits("digits", {"size": 8}, tmp_path).task
    for seed in range(5):
        torch.manual_seed(seed)
        student, teacher = (torch.randn(8, width, requires_grad=True) for width in (16, 32))
        labels, logits = torch.randint(0, 10, (8,)), torch.randn(8, 10)
        outputs = [Outputs(logits, embedding=x) for x in (student, teacher)]
        objective = Objective(phases)
        objective.build(*outputs, task, seed)
        [*_, method] = [term.method for term in objective.all_terms()]
        assert isinstance(method.project, nn.Linear)
        _, distilled, losses = objective(*outputs, Batch(torch.zeros(8, 3, 8, 8), labels, torch.arange(8)))
        distilled.backward()
        assert student.grad is not None
        assert (student.grad.abs().sum(1) > 1e-6).all()  # every example's, whatever its cosine
        assert losses["cosine"] > 0


def test_the_net_of_vectors_is_any_module() -> None:
    load_plugin(EXAMPLES / "vectors.py")
    task = load_splits("tumours", {}, Path()).task
    net = build_net(ModelSpec(model="mlp", width=8), task)  # type: ignore[call-arg]
    outputs = net(task.inputs.random(5), ("embedding",))
    assert outputs.logits.shape == (5, 2)
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (5, 8)


@pytest.mark.long
def test_the_example_without_labels_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_measures(monkeypatch)
    example = runpy.run_path(str(EXAMPLES / "label_free.py"))
    scores = example["distil"](tmp_path, epochs=3).set_index("label")
    assert scores.loc["embedding", "test_top1"].min() > example["untrained"](0) + 15
    assert scores["teacher_top1"].nunique() == 1
    sure = scores["teacher_top1"] + scores["test_top1"] - 100  # both right: they agree
    assert (scores["teacher_agreement"] >= sure - 1e-6).all()

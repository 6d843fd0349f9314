"""Teachers of other classes than the data's, or of none; training without labels; nets judged by a probe."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import STUDENT, TEACHER, batches_of, few_digits, without_measures
from torch import nn

from kdbench.api import Options, run_suite
from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.grid.embedded import judge_embeddings
from kdbench.method.contract import Inapplicable
from kdbench.method.register import METHODS
from kdbench.nets import build_net
from kdbench.suite.load import load_suite
from kdbench.suite.models import ModelSpec, TeacherSpec
from kdbench.suite.objectives import objective
from kdbench.suite.training import Train
from kdbench.train.evaluation import evaluate_one
from kdbench.train.load import load_deployed
from kdbench.train.loop import Cohort
from kdbench.train.objective import built_objective
from kdbench.train.probe import Probed, fit_linear, linear_probe
from kdbench.train.student import Delivered
from kdbench.train.trial import all_views, forward_teacher, views_of
from kdbench.train.unread import hidden
from kdbench.vision.batches import Images

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a net of TEACHER's make that learnt the digits."""
    digits = load_splits("digits", {}, Path())
    net = build_net(ModelSpec(**TEACHER), digits.task, 0)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for epoch in range(6):
        for batch in batches_of(digits.train, 64, number=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.inputs).logits, batch.target).backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("knowing") / "teacher.pth"
    torch.save(net.model.state_dict(), path)
    return path


def records(results: Path) -> dict[str, Any]:
    """By label."""
    found = [json.loads(path.read_text()) for path in results.glob("*/records/*.json")]
    return {record["label"]: record for record in found}


def test_a_teacher_without_classes(
    knowing: Path, suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    rows = {"student": {"ce": 1}, "pkt": {"ce": 1, "pkt": 1000}, "fitnet": {"ce": 1, "fitnet": 1},
            "kd": {"ce": 1, "kd": 1}, "simkd": {"simkd": 1}}  # fmt: skip
    pair = {"teacher": {**TEACHER, "checkpoint": str(knowing), "num_classes": 0}, "student": STUDENT}
    code, out, err = kdbench("run", suite_file(pairs=[pair], methods=rows))
    assert code == 0, err
    found = records(tmp_path / "results")
    assert {label: found[label]["status"] for label in ("student", "pkt", "fitnet")} == dict.fromkeys(
        ("student", "pkt", "fitnet"), "done"
    )
    assert "kd needs a teacher of the data's 10 classes; this one has none" in out
    assert "simkd: 1 of 1 cell skipped" in out
    assert found["pkt"]["scores"]["teacher_top1"] > 85  # by the probe: it has no classes of its own
    assert found["pkt"]["scores"]["teacher_agreement"] > 0
    assert found["pkt"]["profile"]["teacher"]["params"] > 0
    again = kdbench("run", suite_file(pairs=[pair], methods={**rows, "cc": {"ce": 1, "cc": 1}}))
    assert again[0] == 0, again[2]  # the teacher and its probe are read from disk
    assert records(tmp_path / "results")["cc"]["scores"]["teacher_top1"] == found["pkt"]["scores"]["teacher_top1"]
    scores = found["pkt"]["scores"]  # no less than where both err on other pictures: the teacher was in eval mode
    assert scores["teacher_agreement"] >= scores["teacher_top1"] + scores["test_top1"] - 100


def test_a_teacher_without_classes_teaches_the_same_from_disk(
    knowing: Path, suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    """In the run that judges it first and in all later ones: in eval mode."""
    pair = {"teacher": {**TEACHER, "checkpoint": str(knowing), "num_classes": 0}, "student": STUDENT}
    path = suite_file(pairs=[pair], methods={"pkt": {"pkt": 10000, "labels": "none"}}, evaluate={"probe": "linear"})
    first, again = tmp_path / "results", tmp_path / "again"
    assert kdbench("run", path)[0] == 0
    shutil.copytree(first / "teachers", again / "teachers")
    assert kdbench("run", path, results=again)[0] == 0
    made, read = records(first)["pkt"], records(again)["pkt"]
    assert (made["scores"], made["curves"]) == (read["scores"], read["curves"])
    assert made["digests"] == read["digests"]


def test_a_teacher_of_other_classes_is_judged_by_a_probe(
    tmp_path: Path, suite_file: Callable[..., Path], kdbench: Run
) -> None:
    """An untrained net of 7 classes: its embedding alone is worth something."""
    task = replace(load_splits("digits", {}, Path()).task, num_classes=7)
    torch.save(build_net(ModelSpec(**TEACHER), task, 0).model.state_dict(), tmp_path / "seven.pth")
    teacher = {**TEACHER, "checkpoint": str(tmp_path / "seven.pth"), "num_classes": 7}
    pair = {"teacher": teacher, "student": STUDENT}
    code, out, err = kdbench("run", suite_file(pairs=[pair], methods={"pkt": {"ce": 1, "pkt": 1}, "kd": {"kd": 1}}))
    assert code == 0, err
    assert "kd needs a teacher of the data's 10 classes; this one has 7" in out
    assert records(tmp_path / "results")["pkt"]["scores"]["teacher_top1"] > 20


def test_methods_that_apply_read_no_logits() -> None:
    """Every method without a teacher's logits in its needs works beside a teacher that has none."""
    applying = sum(works_without_classes(name) for name in METHODS if "peer" not in METHODS[name].student_needs)
    assert applying >= 20


def works_without_classes(name: str) -> bool:
    """Does it apply to a convolutional pair, or to one of transformers? Fails where it applies and does not work."""
    applies = False
    splits = few_digits(Path())
    task = replace(splits.task, targets=splits.train.targets, batch_size=64)
    vit = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2, "img_size": 8}
    pairs = [(TEACHER, STUDENT), ({"model": "vit_tiny_patch16_224", **vit},) * 2]
    for teacher_spec, student_spec in pairs:
        teacher = build_net(TeacherSpec(**teacher_spec, num_classes=0), task, 1).eval()
        student = build_net(ModelSpec(**student_spec), task, 2)
        try:
            made = built_objective(objective({name: 1.0}), student, teacher, task, "cpu", 0)
        except Inapplicable:
            continue
        needs = made.needs | made.student_needs
        batch = batches_of(splits.train, 64, views=views_of(needs))[0]
        said = forward_teacher(teacher, batch, made.needs, "fp32")
        assert said.logits.shape[1] == 0
        task_loss, distilled, _ = made(all_views(student, batch, made.student_needs), said, batch)
        assert (task_loss + distilled).isfinite(), name
        applies = True
    return applies


def test_mistakes_in_a_suite(suite_file: Callable[..., Path]) -> None:
    pairs = [
        {"teacher": {**TEACHER, "num_classes": 0}, "student": {**STUDENT, "num_classes": 5}},
        {"teacher": {"model": "resnet18", "num_classes": 3, "taught_by": "resnet34", "objective": {"kd": 1}},
         "student": STUDENT},
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        load_suite(suite_file(pairs=pairs))
    text = str(caught.value)
    assert "pairs[0].teacher.num_classes: a teacher of other classes is taken as it is: give `pretrained: true`" in text
    assert "pairs[0].student.num_classes: a student has the classes of its data" in text
    assert "pairs[1].teacher.num_classes: a teacher that is taught learns the classes of the data" in text


@pytest.mark.parametrize("classes", [2, 3])
def test_the_linear_probe_finds_what_is_linear(classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % classes
    x = torch.randn(300, 5, generator=draw) + 8 * nn.functional.one_hot(targets, 5)
    targets[:30] = -1  # no labels: not looked at
    probe = fit_linear(x * torch.tensor([1, 100, 0.01, 1, 1]) + 7, targets, classes + 1)
    logits = probe(x * torch.tensor([1, 100, 0.01, 1, 1]) + 7)
    assert logits.shape == (300, classes + 1)
    assert (logits.argmax(1) == torch.arange(300) % classes).double().mean() > 0.98
    assert float(logits[:, classes].max()) < -1000  # of a class without examples


WIDER = {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}


@pytest.fixture(scope="module")
def label_free(knowing: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[Any]], str]:
    """Records by label, and the leaderboard, of students judged by a probe; two of the rows read no label."""
    folder = tmp_path_factory.mktemp("label-free")
    suite = {
        "name": "free", "datasets": ["digits"], "seeds": [0, 1], "evaluate": {"probe": "linear", "neighbours": 5},
        "pairs": [{"teacher": {**TEACHER, "checkpoint": str(knowing), "num_classes": 0}, "student": WIDER}],
        "methods": {"student": {"ce": 1}, "embedding": {"pkt": 10000, "labels": "none"},
                    "features": {"fitnet": 1, "labels": "none"}, "crd": {"crd": 1, "labels": "none"}},
        "train": {"epochs": 6, "batch_size": 64, "augment": "none"},
    }  # fmt: skip
    (folder / "free.yaml").write_text(yaml.safe_dump(suite))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        outcome = run_suite(folder / "free.yaml", Options(results=folder / "results", device="cpu"))
    found: dict[str, list[Any]] = {}
    for path in sorted((folder / "results").glob("*/records/*.json")):
        record = json.loads(path.read_text())
        found.setdefault(record["label"], []).append(record | {"path": path})
    return found, outcome.text


def test_students_learn_without_labels(label_free: tuple[dict[str, list[Any]], str]) -> None:
    found, text = label_free
    digits = load_splits("digits", {}, Path())
    untrained = build_net(ModelSpec(**WIDER), digits.task, "student", 0)
    probe = linear_probe(untrained, digits.train, 10, "fp32")
    before = evaluate_one(Probed(untrained, probe), digits.test, "fp32").scores["top1"]
    tops = {label: [record["scores"].get("test_top1") for record in records] for label, records in found.items()}
    assert before < 65
    assert min(tops["embedding"]) > before + 20
    assert min(tops["features"]) > before + 5
    assert all(record["scores"]["test_knn_top1"] > before for record in found["embedding"])
    assert "Students are judged by a linear probe" in text
    assert "Read no label in training: embedding, features." in text
    assert "The teacher does not know these classes" in text
    assert re.search(r"\| embedding +\| +2 \|.*[-+]\d+\.\d\d \[", text)  # paired with the student alone
    assert {record["status"] for record in found["crd"]} == {"skipped"}
    assert found["crd"][0]["reason"] == "crd reads labels; its row says `labels: none`"


def test_a_label_that_is_read_ends_its_row(label_free: tuple[dict[str, list[Any]], str]) -> None:
    """In the build or in a step; and reading is whatever is done with them."""
    labels = hidden(torch.arange(5))
    assert labels.shape == (5,)
    assert len(labels) == 5
    assert labels.device == torch.device("cpu")
    for read in (lambda: labels + 1, lambda: labels == 2, lambda: labels[0], lambda: labels.tolist(),
                 lambda: labels.numpy(), lambda: nn.functional.cross_entropy(torch.rand(5, 5), labels),
                 lambda: torch.rand(5)[labels], lambda: labels.clone()):  # fmt: skip
        with pytest.raises(Inapplicable, match="reads labels"):
            read()


def test_a_method_that_reads_labels_fails_in_its_first_step(
    suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    code, *_ = kdbench("run", suite_file(methods={"dkd": {"dkd": 1, "labels": "none"}, "kd": {"kd": 1}}))
    assert code == 1
    found = records(tmp_path / "results")
    assert found["dkd"]["status"] == "failed"
    assert "reads labels; its row says `labels: none`" in found["dkd"]["reason"]
    assert found["kd"]["status"] == "done"


def test_what_is_judged_is_what_is_delivered(label_free: tuple[dict[str, list[Any]], str]) -> None:
    """The probe is the head of the student that is saved."""
    record = label_free[0]["embedding"][0]
    student = load_deployed(record["path"])
    digits = load_splits("digits", {}, Path())
    [batch] = digits.test.in_order(len(digits.test))
    top1 = 100 * float((student(batch.inputs).argmax(1) == batch.target).double().mean())
    assert top1 == pytest.approx(record["scores"]["test_top1"])
    assert "test_top1" not in record["curves"]
    assert record["scores"]["test_top1_best"] is None


def test_labels_and_ce_do_not_go_together(suite_file: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        load_suite(suite_file(methods={"a": {"ce": 1, "kd": 1, "labels": "none"}}, evaluate={"probe": "lineal"}))
    assert "methods.a.labels: ce reads labels; the row says that none is read" in str(caught.value)
    assert "evaluate.probe" in str(caught.value)


class Spoiler(Delivered):
    """A student that writes into the batch which all see."""

    def forward(self, inputs: Any, needs: Any = ("logits",)) -> Any:
        found = super().forward(inputs, needs)
        inputs.mul_(0)
        return found


def test_one_pass_of_the_data_judges_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it would be alone; what one raises or spoils is its own."""
    splits = few_digits(Path())
    nets = [build_net(ModelSpec(**STUDENT), splits.task, seed) for seed in range(4)]
    alone = [linear_probe(net, splits.train, 10, "fp32") for net in nets]
    nets[1].model.forward_features = None  # can't be called
    students: dict[str, Any] = {str(number): Delivered(net) for number, net in enumerate(nets)}
    students["3"] = Spoiler(nets[3])
    passes, in_order = [], Images.in_order
    monkeypatch.setattr(Images, "in_order", lambda self, size: passes.append(len(self)) or in_order(self, size))
    cohort = Cohort(None, splits, Train().batches, 0, at_end=True, neighbours=5)
    found = judge_embeddings(students, cohort)
    assert set(found.broken) == {"1", "3"}
    assert set(found.neighbours) == {"0", "2"}
    for number in (0, 2):
        assert torch.equal(nets[number].head[0].weight, alone[number].weight)
    del students["3"], students["1"]
    passes.clear()
    judge_embeddings(students, cohort)
    assert sorted(passes) == [200, 500]

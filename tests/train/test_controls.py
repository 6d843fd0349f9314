"""Control teachers: an untrained one has the weights it was drawn with, one of shuffled labels knows nothing true."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import STUDENT, TEACHER, TINY, few_digits

import kdbench
from kdbench.data import Splits
from kdbench.nets import build_net
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.controls import CONTROLS, shuffled
from kdbench.suite.load import load_suite
from kdbench.train.loop import Hooks, Stopped
from kdbench.train.teacher import Teacher, obtain

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
KD: dict[str, Any] = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}
ROWS = {
    "student": {"ce": 1},
    "kd": KD,
    "kd, untrained": {**KD, "teacher": "untrained"},
    "kd, shuffled": {**KD, "teacher": "shuffled_labels"},
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


def cells(folder: Path, methods: dict[str, Any] = ROWS, **changes: Any) -> dict[str, Cell]:
    suite = {**TINY, "methods": methods, **changes}
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    return {cell.label: cell for cell in cells_of(load_suite(folder / "suite.yaml"))}


def made(cell: Cell, splits: Splits, folder: Path, hooks: Any = None) -> Teacher:
    return obtain(cell, splits, folder, CPU, hooks or (lambda *_: Hooks()))


def weights(teacher: Teacher) -> dict[str, torch.Tensor]:
    return dict(teacher.net.model.named_parameters())


def test_a_control_is_in_the_key_of_its_row_alone(tmp_path: Path) -> None:
    """It has a teacher, a cohort and a key of its own; those of other rows are as without it."""
    found = cells(tmp_path)
    plain = cells(tmp_path, {label: ROWS[label] for label in ("student", "kd")})
    for label, cell in plain.items():
        assert (found[label].key, found[label].cohort, found[label].teacher_key) == (
            (cell.key, cell.cohort, cell.teacher_key)
        )
    for name in ("key", "cohort", "teacher_key", "case"):
        assert len({getattr(found[label], name) for label in ("kd", "kd, untrained", "kd, shuffled")}) == 3
    assert {cell.pair for cell in found.values()} == {plain["kd"].pair}


def test_what_an_untrained_teacher_never_sees_is_not_in_its_key(tmp_path: Path) -> None:
    before, after = cells(tmp_path), cells(tmp_path, teacher_train={"lr": 0.01})
    same = {label: before[label].teacher_key == after[label].teacher_key for label in ROWS}
    assert same == {"student": False, "kd": False, "kd, untrained": True, "kd, shuffled": False}


def test_a_control_has_nothing_that_the_teacher_learnt(tmp_path: Path) -> None:
    taught = {**TEACHER, "taught_by": STUDENT, "objective": {"ce": 1}}
    found = cells(tmp_path, pairs=[{"teacher": taught, "student": STUDENT}])
    assert found["kd"].teacher_cell is not None
    assert found["kd, untrained"].teacher_cell is None
    assert "taught_by" not in found["kd, shuffled"].teacher_identity


def test_an_untrained_teacher_has_the_weights_it_was_drawn_with(tmp_path: Path, splits: Splits) -> None:
    cell = cells(tmp_path)["kd, untrained"]
    teacher = made(cell, splits, tmp_path)
    drawn = build_net(cell.teacher, splits.task, "teacher", cell.teacher_seed)
    assert weights(teacher).keys() == dict(drawn.model.named_parameters()).keys()
    for name, value in drawn.model.named_parameters():
        assert torch.equal(value, weights(teacher)[name]), name
    assert not teacher.net.training
    again = made(cell, splits, tmp_path)
    for name, value in teacher.net.model.state_dict().items():
        assert torch.equal(value, again.net.model.state_dict()[name]), name


def test_its_batch_norms_have_statistics_of_the_data(tmp_path: Path, splits: Splits) -> None:
    """With those a net begins with, activations would grow from block to block."""
    deep = {"model": "cifar_resnet56"}
    cell = cells(tmp_path, pairs=[{"teacher": deep, "student": STUDENT}])["kd, untrained"]
    drawn = build_net(cell.teacher, splits.task, "teacher", cell.teacher_seed).eval()
    batch = next(splits.test.in_order(100))
    with torch.no_grad():
        wild = drawn(batch.inputs).logits.std()
        tame = made(cell, splits, tmp_path).net(batch.inputs).logits.std()
    assert wild > 100
    assert 0.01 < tame < 10


def test_shuffled_labels_are_the_same_labels_elsewhere(splits: Splits) -> None:
    train = shuffled(splits.train, 3)
    assert torch.equal(train.targets.bincount(), splits.train.targets.bincount())
    share = float((train.targets == splits.train.targets).double().mean())
    assert share < 0.2
    assert torch.equal(train.targets, shuffled(splits.train, 3).targets)
    assert not torch.equal(train.targets, shuffled(splits.train, 4).targets)
    part = train[torch.arange(7)]
    assert torch.equal(part.targets, train.targets[:7])
    for batch, true in zip(train.in_order(100), splits.train.in_order(100), strict=True):
        assert torch.equal(batch.inputs, true.inputs)
        assert torch.equal(batch.target, train.targets[batch.index])


@pytest.mark.long
def test_a_teacher_of_shuffled_labels_knows_nothing_true(tmp_path: Path, splits: Splits) -> None:
    """Trained on them it learns them, and is at chance on the true test set; its pair's teacher is not."""
    recipe = {"epochs": 30, "batch_size": 64, "lr": 0.05, "augment": "none"}
    wide = {"model": "cifar_resnet8"}
    found = cells(tmp_path, train=recipe, pairs=[{"teacher": wide, "student": STUDENT}])
    control, own = found["kd, shuffled"], found["kd"]
    teacher = made(control, splits, tmp_path)
    assert teacher.scores["top1"] < 25
    assert made(own, splits, tmp_path).scores["top1"] > 80
    labels = CONTROLS["shuffled_labels"].splits(splits, control.teacher_seed).train
    with torch.no_grad():
        right = [teacher.net(b.inputs).logits.argmax(1) == b.target for b in labels.in_order(250)]
    assert torch.cat(right).double().mean() > 0.5  # of the labels it was given: ten times chance would be 1


def test_its_training_goes_on_where_it_stopped(tmp_path: Path, splits: Splits) -> None:
    cell = cells(tmp_path, train={"epochs": 3, "batch_size": 100, "lr": 0.05, "augment": "crop"})["kd, shuffled"]
    whole = made(cell, splits, tmp_path / "whole")
    steps = 0

    def hooks(_: Cell, trial: Any, checkpoints: Any) -> Hooks:
        def step(members: int) -> None:
            nonlocal steps
            steps += 1

        return Hooks(step=step, checkpoint=lambda trials: [checkpoints.save(t.key, t.state()) for t in trials],
                     stop=lambda: steps == 8)  # fmt: skip

    with pytest.raises(Stopped):
        made(cell, splits, tmp_path / "parts", hooks)
    steps = 100
    parts = made(cell, splits, tmp_path / "parts", hooks)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name


def test_a_run_marks_its_controls(tmp_path: Path, quick_profile: None) -> None:
    cells(tmp_path, seeds=[0, 1])
    table = kdbench.run(tmp_path / "suite.yaml", results=tmp_path / "results", device="cpu")
    assert list(table["n"]) == [2, 2, 2, 2]
    assert list(table["control"].fillna("")) == ["", "", "untrained", "shuffled_labels"]
    assert len(list((tmp_path / "results" / "teachers").glob("*.safetensors"))) == 3
    folder = tmp_path / "results" / "tiny"
    text = (folder / "leaderboard.md").read_text()
    assert "kd, untrained *(control)*" in text
    assert "Controls: kd, untrained (an untrained teacher, " in text
    assert '"control":"untrained"' in (folder / "leaderboard.html").read_text()
    assert "kd, untrained (control)" in (folder / "leaderboard.tex").read_text()
    records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    own = {record["scores"]["teacher_top1"] for record in records if record["label"] in ("student", "kd")}
    assert f"Teacher: {own.pop():.2f}%" in text

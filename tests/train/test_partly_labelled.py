"""Data of which some training examples have no label: who learns from labels alone sees the others only."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STUDENT, TEACHER, batches_of, few_digits
from torch.nn import functional as F

from kdbench.data import Splits, hold_out, load_splits, register_dataset
from kdbench.errors import UserError
from kdbench.method.contract import Batch, Blend, Inapplicable, Outputs
from kdbench.nets import build_net
from kdbench.suite.models import ModelSpec
from kdbench.suite.objectives import objective
from kdbench.suite.training import Train
from kdbench.train.labels import labelled
from kdbench.train.objective import Objective
from kdbench.train.unread import labelled_rows

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
PARTLY = """
from dataclasses import replace
from kdbench.data import load_splits, register_dataset
from kdbench.vision.builtin import AUGMENTED

@register_dataset("partly", **AUGMENTED)
def partly(data_dir):
    whole = load_splits("digits", {}, data_dir)
    labels = whole.train.targets.clone()
    labels[300:] = -1
    return replace(whole, train=replace(whole.train, targets=labels))
"""


def bare(target: list[int], **more: Any) -> Batch:
    return Batch(torch.rand(len(target), 3, 8, 8), torch.tensor(target), torch.arange(len(target)), **more)


def losses_of(row: dict[str, Any], batch: Batch, student: Outputs, teacher: Outputs) -> dict[str, torch.Tensor]:
    made = Objective(objective(row))
    made.partly = True
    return made(student, teacher, batch)[2]


def test_ce_is_the_mean_over_the_labelled() -> None:
    logits, teacher = torch.randn(4, 3, requires_grad=True), Outputs(torch.randn(4, 3))
    found = losses_of({"ce": 1.0, "kd": 1.0}, bare([2, -1, 0, -1]), Outputs(logits), teacher)
    assert found["ce"] == F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]))
    assert found["kd"] == Objective(objective({"kd": 1.0}))(Outputs(logits), teacher, bare([0] * 4))[2]["kd"]  # of all
    none = losses_of({"ce": 1.0}, bare([-1, -1]), Outputs(logits[:2]), Outputs(torch.randn(2, 3)))["ce"]
    none.backward()
    assert none == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_method_that_reads_labels_otherwise_does_not_apply() -> None:
    with pytest.raises(Inapplicable, match="reads labels; some examples of these data have none"):
        losses_of({"dkd": 1.0}, bare([1, -1]), Outputs(torch.randn(2, 3)), Outputs(torch.randn(2, 3)))


@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_of_mixed_pictures_both_must_have_a_label(smoothing: float | None) -> None:
    blend = Blend(torch.tensor([1, 0, 3, 2, 4]), torch.tensor([0.7, 0.7, 0.6, 0.6, 1.0]))
    batch = labelled(bare([0, 1, 2, -1, -1], blend=blend), Train(label_smoothing=smoothing), 3)
    assert labelled_rows(batch).tolist() == [0, 1]
    assert batch.soft is not None
    assert torch.allclose(batch.soft[:2].sum(1), torch.ones(2))


def test_only_labelled_examples_are_held_out() -> None:
    whole = few_digits(Path())
    labels = whole.train.targets.clone()
    labels[::3] = -1
    splits = hold_out(replace(whole, train=replace(whole.train, targets=labels)), 0.2)
    known = int((labels >= 0).sum())
    assert len(splits.validation) == -(-known // 5)
    assert (splits.validation.targets >= 0).all()
    assert int((splits.train.targets < 0).sum()) == len(labels) - known
    assert len(splits.train) + len(splits.validation) == len(labels)


def test_test_examples_all_have_a_label() -> None:
    @register_dataset("untested")
    def untested(data_dir: Path) -> Splits:
        whole = few_digits(data_dir)
        return replace(whole, test=replace(whole.test, targets=torch.full_like(whole.test.targets, -1)))

    with pytest.raises(UserError, match=r"data set untested: .* test examples have no label"):
        load_splits("untested", {}, Path())


def test_rows_without_labels_are_paired_with_a_student_of_the_labelled(
    tmp_path: Path, suite_file: Callable[..., Path], kdbench: Run
) -> None:
    """The plain student, and a teacher that is trained, learn from what has labels; pictures are mixed."""
    (tmp_path / "partly.py").write_text(PARTLY)
    rows = {"student": {"ce": 1}, "pkt": {"pkt": 10000, "labels": "none"}, "kd": {"ce": 1, "kd": 1}, "dkd": {"dkd": 1},
            "crd": {"crd": 1}}  # fmt: skip
    train = {"epochs": 2, "batch_size": 64, "lr": 0.1, "augment": {"mixup": 0.2}}
    pair = {"teacher": TEACHER, "student": {**STUDENT, "widths": [4, 4, 8, 8]}}
    path = suite_file(plugins=["partly.py"], datasets=["partly"], methods=rows, evaluate={"probe": "linear"},
                      pairs=[pair], train=train, validation=0.1)  # fmt: skip
    code, out, err = kdbench("run", path)
    assert code == 1, err
    records = [json.loads(file.read_text()) for file in (tmp_path / "results").glob("*/records/*.json")]
    found = {record["label"]: record for record in records}
    assert {label: record["status"] for label, record in found.items()} == {
        "student": "done", "pkt": "done", "kd": "done", "dkd": "failed", "crd": "skipped",
    }  # fmt: skip
    assert "reads labels; some examples of these data have none" in found["dkd"]["reason"]
    assert found["student"]["num_train"] == 1200 - 30
    assert found["student"]["scores"]["teacher_top1"] > 20
    assert found["student"]["scores"]["test_top1"] > 40
    assert "| pkt " in out


def test_what_has_no_label_changes_no_bit_of_the_student_alone() -> None:
    """But for batch norms, which see all pictures: gradients of one batch, and of its labelled part alone."""
    [batch, *_] = batches_of(few_digits(Path()).train, 16)
    half = replace(batch, target=torch.where(torch.arange(16) < 8, batch.target, -1))
    net = build_net(ModelSpec(**STUDENT), few_digits(Path()).task, 0).eval()
    grads = []
    for seen, partly in ((half, True), (batch, False)):
        made = Objective(objective({"ce": 1.0}))
        made.partly = partly
        net.zero_grad()
        outputs = net(seen.inputs)
        cut = outputs if partly else outputs.map(lambda x: x[:8], per_sample=True)
        seen = seen if partly else replace(seen, target=seen.target[:8])
        made(cut, Outputs(cut.logits.detach()), seen)[0].backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    assert torch.equal(*grads)

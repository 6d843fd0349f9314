"""`teacher_norms: batch`: the teacher's batch norms in train mode for one row, without a trace for the others."""

import time
from typing import Any

import pytest
import torch
from conftest import STUDENT, TEACHER, few_digits
from torch import nn

from kdbench.data import Splits
from kdbench.method.contract import Batch, Inapplicable, Outputs
from kdbench.nets import Net, build_net
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.objectives import fill
from kdbench.suite.spec import ModelSpec
from kdbench.train import loop
from kdbench.train.loop import Cohort, train_cohort
from kdbench.train.start import start_trial
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial, forward_teacher

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
ROWS = {
    "eval": {"ce": 1, "ofd": 0.001},
    "train": {"ce": 1, "ofd": {"weight": 0.001, "teacher_norms": "batch"}},
    "kd": {"ce": 1, "kd": 1},
}
VIT = {"model": "vit_tiny_patch16_224", "img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 2}


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture
def teacher(splits: Splits) -> Net:
    net = build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0)
    draw = torch.Generator().manual_seed(0)
    for norm in (part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.rand(norm.num_features, generator=draw))  # not those of any batch
        norm.num_batches_tracked += 5
    return freeze(net, CPU)


@pytest.fixture
def cells(suite_file, splits: Splits) -> dict[str, Cell]:
    train = {"epochs": 1, "batch_size": 64, "lr": 0.05}
    path = suite_file(methods=ROWS, pairs=[{"teacher": TEACHER, "student": STUDENT}], train=train, seeds=[0])
    return {cell.label: cell for cell in cells_of(load_suite(path))}


def begin(cell: Cell, splits: Splits, teacher: Net) -> Trial:
    return start_trial(cell, build_net(cell.student, splits.task, "student", 0), splits, teacher, CPU, None)


def a_batch(splits: Splits, n: int = 16) -> Batch:
    return Batch(
        splits.task.inputs.random(n, CPU, torch.Generator().manual_seed(1)), torch.zeros(n).long(), torch.arange(n)
    )


def test_the_batch_decides_the_statistics_and_none_is_kept(splits: Splits, teacher: Net) -> None:
    batch, before = a_batch(splits), {k: v.clone() for k, v in teacher.state_dict().items()}
    both = forward_teacher(teacher, batch, frozenset({"preacts", "batch_norms:preacts"}), "fp32")
    ours = both.views["batch_norms"].preacts
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert not any(part.training for part in teacher.modules())
    torch.testing.assert_close(both.preacts, forward_teacher(teacher, batch, frozenset({"preacts"}), "fp32").preacts)

    as_authors = build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0)
    as_authors.load_state_dict(before)
    with torch.no_grad():
        theirs = as_authors.train()(batch.inputs, ("preacts",)).preacts
    for a, b, c in zip(ours, theirs, both.preacts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(a, c, atol=1e-2)


def test_a_row_with_it_learns_from_other_maps_and_others_of_its_cohort_do_not_notice(
    cells: dict[str, Cell], splits: Splits, teacher: Net
) -> None:
    assert cells["eval"].cohort == cells["train"].cohort
    assert cells["eval"].key != cells["train"].key

    def trained(*labels: str) -> dict[str, Trial]:
        trials = {label: begin(cells[label], splits, teacher) for label in labels}
        assert train_cohort(Cohort(teacher, splits, cells["kd"].train, 0), list(trials.values()))
        assert {trial.status for trial in trials.values()} == {"done"}
        return trials

    together = trained(*ROWS)
    for label in ROWS:
        [alone] = trained(label).values()
        for a, b in zip(alone.net.parameters(), together[label].net.parameters(), strict=True):
            assert torch.equal(a, b), label
    pairs = zip(together["eval"].net.parameters(), together["train"].net.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_its_second_forward_is_the_cost_of_those_who_ask_for_it(
    cells: dict[str, Cell], splits: Splits, teacher: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop.forward_teacher

    def slow(teacher: Net, batch: Batch, needs: frozenset[str], **how: Any) -> Outputs:
        time.sleep(0.05 * any(":" in need for need in needs))
        return whole(teacher, batch, needs, **how)

    monkeypatch.setattr(loop, "forward_teacher", slow)
    trials = {label: begin(cells[label], splits, teacher) for label in ROWS}
    cohort = Cohort(teacher, splits, cells["kd"].train, 0)
    assert train_cohort(cohort, list(trials.values()))
    assert trials["train"].seconds["teacher"] > 0.05 * cohort.steps
    assert trials["kd"].seconds["teacher"] == trials["eval"].seconds["teacher"] < 0.05 * cohort.steps


def test_what_is_not_asked_for_is_in_no_key(cells: dict[str, Cell]) -> None:
    assert "teacher_norms" not in str(cells["eval"].identity)
    assert cells["train"].identity["objective"]["ofd"]["teacher_norms"] == "batch"


def test_a_net_without_batch_norms_has_no_such_mode(suite_file, splits: Splits) -> None:
    rows = {"kd": {"ce": 1, "kd": {"weight": 1, "teacher_norms": "batch"}}}
    [cell] = cells_of(load_suite(suite_file(methods=rows, pairs=[{"teacher": VIT, "student": STUDENT}], seeds=[0])))
    net = freeze(build_net(cell.teacher, splits.task, "teacher", 0), CPU)
    with pytest.raises(Inapplicable, match="kd needs a teacher with batch norms"):
        begin(cell, splits, net)


@pytest.mark.parametrize(
    ("name", "why"),
    [("ce", "does not ask the teacher"), ("mlkd", "on other views of the batch"), ("ft", "before the training")],
)
def test_who_can_t_have_it(name: str, why: str) -> None:
    assert any(why in text for setting, text in fill(name, {"teacher_norms": "batch"})[1])


def test_only_this_one_mode_is_named() -> None:
    assert fill("kd", {"teacher_norms": "running"})[1]

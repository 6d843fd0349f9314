"""A method whose loss reaches no weight of the student is not told as done: it taught nothing."""

import pytest
import torch
from conftest import TEACHER, few_digits
from torch.utils.checkpoint import checkpoint

from kdbench.method.contract import Method
from kdbench.method.register import register_method
from kdbench.nets import build_net
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.spec import ModelSpec
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.reach import reaches
from kdbench.train.start import start_trial
from kdbench.train.teacher import freeze

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
RECIPE = {"epochs": 2, "batch_size": 128, "lr": 0.05, "augment": "crop"}
SILENT = "TeachesNothing: mute: in no step of epoch {} did its loss reach a weight of the student"


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture
def teacher(splits):
    return freeze(build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0), CPU)


@pytest.fixture
def begin(suite_file, splits, teacher):
    def start(row, state=None):
        [cell] = cells_of(load_suite(suite_file(methods={"row": row}, train=RECIPE)))
        return start_trial(cell, build_net(cell.student, splits.task, "student", 0), splits, teacher, CPU, state)

    return start


def mute(loss):
    """The method `mute` gives `loss(student, teacher, adapter, step)`."""

    @register_method("mute", needs="logits")
    class Mute(Method):
        def build(self, student, teacher, task):
            self.adapter, self.step = torch.nn.Linear(10, 10), -2  # the first step is made twice

        def forward(self, student, teacher, batch):
            self.step += 1
            return {"mute": loss(student.logits, teacher.logits, self.adapter, self.step)}


MUTE = {
    "of the teacher alone": lambda s, t, adapter, step: t.square().mean(),
    "detached": lambda s, t, adapter, step: (s.detach() - t).square().mean(),
    "a constant": lambda s, t, adapter, step: torch.zeros(()),
    "of its adapter alone": lambda s, t, adapter, step: (adapter(s.detach()) - t).square().mean(),
}


@pytest.mark.parametrize("kind", MUTE)
def test_what_teaches_nothing_fails(begin, splits, teacher, kind):
    mute(MUTE[kind])
    trials = [begin({"ce": 1, "mute": 1}), begin({"ce": 0.1, "kd": 0.9})]
    train_cohort(Cohort(teacher, splits, trials[0].train_spec, 0), trials)
    assert [trial.status for trial in trials] == ["failed", "done"]
    assert trials[0].reason.startswith(SILENT.format(1))


def test_what_teaches_in_one_step_is_heard(begin, splits, teacher):
    mute(lambda s, t, adapter, step: (s - t).square().mean() if step == 2 else torch.zeros(()))
    trial = begin({"ce": 1, "mute": 1})
    train_cohort(Cohort(teacher, splits, trial.train_spec, 0), [trial])
    assert (trial.status, trial.reason) == ("done", "")


def test_a_later_phase_is_judged_by_itself(begin, splits, teacher):
    mute(MUTE["detached"])
    trial = begin({"phases": [{"epochs": 1, "ce": 1}, {"ce": 1, "mute": 1}]})
    train_cohort(Cohort(teacher, splits, trial.train_spec, 0), [trial])
    assert trial.reason.startswith(SILENT.format(2))


@pytest.mark.parametrize(("taught_in", "status"), [(0, "done"), (None, "failed")])
def test_it_is_known_after_a_stop_amidst_the_epoch(begin, splits, teacher, tmp_path, taught_in, status):
    mute(lambda s, t, adapter, step: s.square().mean() if step == taught_in else torch.zeros(()))
    trial, saved, steps = begin({"ce": 1, "mute": 1}), Checkpoints(tmp_path), []
    hooks = Hooks(
        step=steps.append, checkpoint=lambda trials: saved.save("k", trial.state()), stop=lambda: len(steps) == 2
    )
    assert not train_cohort(Cohort(teacher, splits, trial.train_spec, 0, hooks), [trial])
    again = begin({"ce": 1, "mute": 1}, saved.load("k"))
    assert again.done == 2
    train_cohort(Cohort(teacher, splits, trial.train_spec, 0), [again])
    assert again.status == status


def test_through_every_kind_of_graph():
    layer, other = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    params, x = set(layer.parameters()), torch.ones(2, 3)
    assert reaches(layer.weight.sum(), params)
    assert reaches(checkpoint(layer, x, use_reentrant=False).sum(), params)
    assert reaches(other(layer(x).detach().requires_grad_() * 2).sum() + layer.bias.sum(), params)
    assert not reaches(other(layer(x).detach()).sum(), params)
    assert not reaches(other.weight.sum(), params)
    assert not reaches(0.0, params)
    deep = layer(x)
    for _ in range(3000):
        deep = deep + 1
    assert reaches(deep, params)
    wide = other(x)
    for _ in range(60):  # 2**60 ways to the same leaves
        wide = wide + wide
    assert not reaches(wide, params)

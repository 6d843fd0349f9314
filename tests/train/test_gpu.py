"""On a GPU: every method trains as on the CPU, a cohort changes nothing, a resumed run changes nothing.

The bits are asked for where torch's deterministic algorithms reach. Skipped where there is no GPU; run by hand there:

    python -m pytest -n 0 tests/train/test_gpu.py
"""

from collections.abc import Iterator

import pytest
import torch
from conftest import few_digits

from kdbench.data import Splits
from kdbench.method.contract import Inapplicable
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.nets import build_net
from kdbench.suite.load import ModelSpec, Train, objective
from kdbench.suite.plugins import load_methods
from kdbench.train.arithmetic import repeat_itself
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.objective import built_objective, student_needs_of
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial

load_methods()
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
TEACHER = ModelSpec(model="cifar_resnet14", widths=[8, 8, 16, 16])
STUDENT = ModelSpec(model="cifar_resnet8", widths=[8, 8, 8, 16])
ROWS = {"ce": {"ce": 1}, "kd": {"ce": 0.1, "kd": 0.9}, "fitnet": {"ce": 1, "fitnet": 10}, "sp": {"ce": 1, "sp": 10}}
RECIPE = Train(epochs=2, batch_size=128, lr=0.05, augment="crop_flip", schedule={"kind": "cosine"})

# All methods but rules on gradients, which are no losses, and those with a peer, which `start_trial` makes.
TERMS = [name for name in METHODS if not is_rule(METHODS[name]) and "peer" not in student_needs_of([name])]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


def trial(row: dict[str, object], splits: Splits, device: torch.device, train: Train = RECIPE) -> Trial:
    net, teacher = build_net(STUDENT, splits.task, "student", 0).to(device), teacher_of(splits, device)
    task = training_task(splits.task, train, splits.train.targets)
    return Trial(net, built_objective(objective(row), net, teacher, task, device, 0), train, device, 0)


def teacher_of(splits: Splits, device: torch.device) -> torch.nn.Module:
    return freeze(build_net(TEACHER, splits.task, "teacher", 0), device)


def trained(row: dict[str, object], splits: Splits, device: torch.device, train: Train = RECIPE) -> Trial:
    repeat_itself(device)
    here = splits.to(device)
    one = trial(row, here, device, train)
    train_cohort(Cohort(teacher_of(here, device), here, train.batches, 0), [one])
    assert one.status == "done", one.reason
    return one


def weights(one: Trial) -> dict[str, torch.Tensor]:
    return {name: value.cpu() for name, value in one.net.state_dict().items()}


def same(one: Trial, other: Trial) -> list[str]:
    mine, theirs = weights(one), weights(other)
    return [name for name in mine if not torch.equal(mine[name], theirs[name])]


@pytest.fixture(scope="module")
def _believed() -> Iterator[None]:
    """The CPU's arithmetic, which is proven elsewhere: a proof for each of sixty methods' adapters takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdbench.train.trial.trusted", lambda module: None)
        yield


@pytest.mark.usefixtures("_believed")
@pytest.mark.parametrize("name", TERMS)
def test_a_methods_first_losses_are_those_of_the_cpu(name: str, splits: Splits) -> None:
    """Of one epoch at a rate so small that rounding can't be carried on; without what is drawn on the device."""
    train = Train(epochs=1, batch_size=128, lr=1e-6, augment="crop_flip")
    row = {name: 1} if name == "ce" else {"ce": 1, name: 1}
    try:
        here, there = (trained(row, splits, device, train) for device in (CPU, GPU))
    except Inapplicable as reason:
        pytest.skip(str(reason))
    for curve, values in here.curves.items():
        if curve.startswith("loss/"):
            close = 0.3 if name in DRAWN else 2e-3
            assert there.curves[curve] == pytest.approx(values, rel=close, abs=1e-4), curve


# Their own random numbers come from the device's generator.
DRAWN = ("crd", "crld", "tekap", "cckd", "vid", "nst", "semckd", "mgd", "simkd", "ft")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(precision: str, splits: Splits) -> None:
    curves = trained(ROWS["kd"], splits, GPU, RECIPE.model_copy(update={"precision": precision})).curves
    assert curves["loss/total"][-1] < curves["loss/total"][0]


def test_the_same_run_twice_has_the_same_bits(splits: Splits) -> None:
    for row in ROWS.values():
        assert not same(trained(row, splits, GPU), trained(row, splits, GPU)), row


def test_a_cohort_changes_nothing(splits: Splits) -> None:
    repeat_itself(GPU)
    here = splits.to(GPU)
    members = [trial(row, here, GPU) for row in ROWS.values()]
    train_cohort(Cohort(teacher_of(here, GPU), here, RECIPE.batches, 0), members)
    for member, row in zip(members, ROWS.values(), strict=True):
        assert not same(member, trained(row, splits, GPU)), row


def test_a_resumed_run_changes_nothing(splits: Splits) -> None:
    repeat_itself(GPU)
    here, row, steps = splits.to(GPU), ROWS["fitnet"], iter(range(1000))
    first = trial(row, here, GPU)
    stop = Hooks(stop=lambda: next(steps) == 7)
    assert not train_cohort(Cohort(teacher_of(here, GPU), here, RECIPE.batches, 0, stop), [first])
    second = trial(row, here, GPU)
    second.load_state(first.state())
    assert train_cohort(Cohort(teacher_of(here, GPU), here, RECIPE.batches, 0), [second])
    assert not same(second, trained(row, splits, GPU))

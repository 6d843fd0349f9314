"""fp16: gradients are scaled, a step that overflows is left out, and a CPU is refused.

The engine's part is tried on the CPU, in nets so small that its slow kernels do not matter.
"""

from typing import Any

import pytest
import torch
from conftest import TINY, batches_of, few_digits
from test_invariants import bits, trial

from kdbench.data import Splits
from kdbench.method.contract import Inapplicable
from kdbench.nets import Net, build_net
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.load import ModelSpec
from kdbench.suite.training import Train
from kdbench.train.evaluation import autocast
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.teacher import freeze

CPU = torch.device("cpu")
HALF = Train(epochs=1, batch_size=100, lr=0.05, augment="crop", precision="fp16", clip_grad=1.0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


@pytest.fixture(scope="module")
def teacher(splits: Splits) -> Net:
    return freeze(build_net(ModelSpec(model="cifar_resnet14", widths=[4, 4, 8, 8]), splits.task, "teacher", 0), CPU)


def test_nets_run_in_half_precision() -> None:
    with autocast(CPU, "fp16"):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float16
    with autocast(CPU, "fp32"):
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_the_first_step_is_nearly_that_of_fp32(splits: Splits, teacher: Net) -> None:
    half, full = (
        trial("kd", splits, teacher, train=HALF.model_copy(update={"precision": p})) for p in ("fp16", "fp32")
    )
    batch = batches_of(splits.train, 100)[0]
    start = {k: v.clone() for k, v in full.net.state_dict().items()}
    for one in (half, full):
        one.step(batch, teacher(batch.inputs), torch.tensor(0.05))
    moved = [(p - start[n]).abs().max() for n, p in full.net.named_parameters()]
    apart = [(p - q).abs().max() for p, q in zip(half.net.parameters(), full.net.parameters(), strict=True)]
    assert max(float(x.detach()) for x in moved) > 5e-3
    assert max(float(x.detach()) for x in apart) < 0.05 * max(float(x.detach()) for x in moved)


def test_a_step_that_overflows_is_left_out(splits: Splits, teacher: Net) -> None:
    one = trial("ce", splits, teacher, train=HALF)
    batch = batches_of(splits.train, 100)[0]
    before = [p.detach().clone() for p in one.net.parameters()]
    one.scaler.load_state_dict({**one.scaler.state_dict(), "scale": 2.0**127})
    one.step(batch, teacher(batch.inputs), torch.tensor(0.05))
    assert all(torch.equal(a, b) for a, b in zip(before, one.net.parameters(), strict=True))
    assert one.scaler.get_scale() == 2.0**126


def test_resume_equals_uninterrupted(splits: Splits, teacher: Net, tmp_path: Any) -> None:
    whole = trial("kd", splits, teacher, train=HALF)
    whole.scaler.load_state_dict({**whole.scaler.state_dict(), "growth_interval": 2})
    assert train_cohort(Cohort(teacher, splits, HALF.batches, 0), [whole])
    assert whole.scaler.get_scale() > 2.0**16  # it grew after two steps
    first, saved = trial("kd", splits, teacher, train=HALF), Checkpoints(tmp_path)
    first.scaler.load_state_dict({**first.scaler.state_dict(), "growth_interval": 2})
    hooks = Hooks(checkpoint=lambda _: saved.save("kd", first.state()), stop=lambda: first.done == 3)
    assert not train_cohort(Cohort(teacher, splits, HALF.batches, 0, hooks), [first])
    second, state = trial("kd", splits, teacher, train=HALF), saved.load("kd")
    assert state is not None
    second.load_state(state)
    train_cohort(Cohort(teacher, splits, HALF.batches, 0), [second])
    (tensors, curves), (others, other_curves) = bits(second), bits(whole)  # states have digests in fp32 alone
    assert curves == other_curves
    assert all(torch.equal(value, others[name]) for name, value in tensors.items())
    assert second.scaler.state_dict() == whole.scaler.state_dict()


def test_a_rule_on_gradients_takes_no_scaled_ones(splits: Splits, teacher: Net) -> None:
    with pytest.raises(Inapplicable, match="a rule on gradients takes no scaled ones"):
        trial({"ce": 1, "kd": 1, "dot": {}}, splits, teacher, train=HALF)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_cpu_is_refused(kdbench: Any, suite_file: Any, command: str) -> None:
    for train in ({"train": {**TINY["train"], "precision": "fp16"}}, {"teacher_train": {"precision": "fp16"}}):
        code, _, err = kdbench(command, suite_file(**train))
        assert code == 2
        assert "precision: fp16 needs a GPU" in err

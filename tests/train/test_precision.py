"""What runs in half precision: the nets, and the convolutions of adapters; never a loss."""

import os

import pytest
import torch

from kdbench.method.contract import Outputs, Task
from kdbench.suite.load import objective
from kdbench.train import arithmetic
from kdbench.train.objective import Objective
from kdbench.train.trial import narrow_adapters

CPU = torch.device("cpu")
FITNET = {"ce": 1, "fitnet": 100}
SIMKD = {"simkd": 1}


def said(channels: int) -> Outputs:
    torch.manual_seed(channels)
    features = tuple(torch.randn(4, channels, size, size) for size in (16, 8, 4))
    weight, embedding = torch.randn(5, channels), features[-1].mean((2, 3))
    return Outputs(
        embedding @ weight.T, embedding, features, classifier=(weight, torch.zeros(5)), pooled_map=features[-1]
    )


def built_of(row: dict[str, object]) -> Objective:
    built = Objective(objective(row))
    built.build(said(8), said(12), Task(5, 100, (3, 32, 32), 10, 4, torch.zeros(100, dtype=torch.int64), 0.9), 0)
    return built


def convolved(row: dict[str, object], precision: str) -> list[torch.Tensor]:
    """What every convolution of a row's adapters gives for ones."""
    narrow_adapters(built := built_of(row), CPU, precision)
    convolutions = [m for m in built.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions
    return [m(torch.full((1, m.in_channels, 4, 4), 0.3)) for m in convolutions]


def test_convolutions_of_adapters_run_in_the_precision_of_the_nets_and_give_fp32():
    for wide, narrow in zip(convolved(FITNET, "fp32"), convolved(FITNET, "bf16"), strict=True):
        assert narrow.dtype == wide.dtype == torch.float32
        assert torch.equal(narrow, narrow.bfloat16().float())
        assert not torch.equal(wide, wide.bfloat16().float())
        torch.testing.assert_close(narrow, wide, rtol=2**-6, atol=2**-6)


def test_depthwise_convolutions_stay_in_fp32():
    wide, narrow = (convolved({"ce": 1, "ofa": 1}, precision) for precision in ("fp32", "bf16"))
    assert {torch.equal(a, b) for a, b in zip(wide, narrow, strict=True)} == {True, False}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_that_stays_is_part_of_the_student(precision: str):
    for wide, same in zip(convolved(SIMKD, "fp32"), convolved(SIMKD, precision), strict=True):
        assert torch.equal(wide, same)


def test_an_adapter_that_is_led_around_is_told_through_its_narrowed_forward(monkeypatch):
    monkeypatch.setattr(arithmetic.Verdicts, "way", lambda self, operation: "contiguous")
    arithmetic.trusted(built := built_of(FITNET))
    narrow_adapters(built, CPU, "bf16")
    conv = next(m for m in built.modules() if isinstance(m, torch.nn.Conv2d))
    assert arithmetic.led_around(built) == ""
    conv(torch.ones(1, conv.in_channels, 4, 4))
    assert arithmetic.led_around(built) == f"{conv} contiguous"


SLOW = "has no bf16 arithmetic and takes about 8 times as long for it: set precision: fp32"


@pytest.mark.parametrize("has", [True, False])
def test_bf16_on_a_cpu_that_has_none_is_told_by_plan_run_and_doctor(kdbench, suite_file, monkeypatch, has):
    monkeypatch.setattr(arithmetic, "has_bf16", lambda: has)
    train = {"epochs": 1, "batch_size": 512, "lr": 0.05}
    asked, other = suite_file(train={**train, "precision": "bf16"}), suite_file("fp32.yaml", train=train)
    told = {what: " ".join(" ".join(kdbench(*what)[1:]).split()).count(SLOW) for what in (
        ("plan", asked), ("plan", other), ("run", asked), ("doctor",)
    )}  # fmt: skip
    assert told == {("plan", asked): not has, ("plan", other): 0, ("run", asked): not has, ("doctor",): not has}


def test_on_cuda_deterministic_algorithms_are_asked_for(monkeypatch):
    asked: list[object] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda mode, warn_only: asked.append((mode, warn_only)))
    for name in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, name == "benchmark")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    arithmetic.repeat_itself(CPU)
    assert not asked
    arithmetic.repeat_itself(torch.device("cuda"))
    assert asked == [(True, True)]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
    assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"

"""One contract for every registered method: pairs of all kinds, K of 2 and 1000, batches of 1 and 2, fp32 and bf16.

A method is in these tests from the moment it is registered. The tables of exceptions below are the only places where
methods are named, each with its reason.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdbench.method.contract import VIEWS, Batch, Inapplicable, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.nets import Net, build_net
from kdbench.seeding import seeded
from kdbench.suite.cells import cells_of
from kdbench.suite.load import ModelSpec, load_suite, objective
from kdbench.suite.plugins import load_methods
from kdbench.train.evaluation import autocast
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of
from kdbench.train.teacher import freeze
from kdbench.train.trial import all_views, at_least_fp32, forward_teacher
from kdbench.vision.batches import picture_task

load_methods()
CPU = torch.device("cpu")
SIDE, PICTURES = 16, 96  # side of a picture, pictures in the training set

TOKENS = {"img_size": SIDE, "patch_size": 4, "embed_dim": 16, "num_heads": 2}
NETS: dict[str, dict[str, Any]] = {
    "cnn": {"model": "cifar_resnet14", "widths": [4, 4, 8, 16]},
    "narrow_cnn": {"model": "cifar_resnet8", "widths": [2, 4, 4, 8]},
    "equal_cnn": {"model": "cifar_resnet8", "widths": [4, 4, 8, 16]},
    "cnn_of_5_stages": {"model": "resnet18", "layers": [1, 1, 1, 1], "channels": [4, 4, 8, 12], "stem_width": 4},
    "vit": {"model": "vit_tiny_patch16_224", "depth": 4, **TOKENS},
    "narrow_vit": {"model": "vit_tiny_patch16_224", "depth": 3, **TOKENS, "embed_dim": 12},
    "distilled_vit": {"model": "deit_tiny_distilled_patch16_224", "depth": 3, **TOKENS},
}
PAIRS = [
    *(("cnn", student) for student in ("narrow_cnn", "equal_cnn", "cnn_of_5_stages", "vit", "distilled_vit")),
    *(("cnn_of_5_stages", "narrow_cnn"), ("vit", "cnn"), ("vit", "narrow_vit")),
]
USUAL = (10, 8, "fp32")  # classes, pictures in the batch, precision of the nets
EXTREMES = [(2, 1, "fp32"), (2, 2, "bf16"), (1000, 1, "bf16"), (1000, 2, "fp32")]

# Without trained parts, and yet not 0 where the student equals the teacher.
NOT_ZERO = {
    "bkd": "a cross-entropy with soft labels: the teacher's entropy is not taken off",
    "nkd": "likewise",
    "wsld": "likewise",
    "deit": "a cross-entropy with the teacher's choice",
    "ttm": "only the teacher is softened",
    "wttm": "only the teacher is softened",
    "swap_kd": "the teacher is corrected where it is wrong",
    "rld": "the teacher is corrected where it is wrong",
    "fixed_teacher": "the teacher sees another view",
    "tekap": "the teacher is perturbed",
    "nd": "the student must point at the mean of its class",
    "ab": "neurons must be beyond a margin that the teacher's need not reach",
}
# Likewise, but on some nets next to 0.
NEARLY_ZERO = {
    "crld": "each view of the student meets the other view of the teacher",
    "wkd_l": "the target's part is a cross-entropy, and the entropic plan is not the cheapest",
    "wkd_l_maps": "likewise",
}
# Whether a classifier reads the mean of a map shows in values only, and the meta device has none.
SHOWS_IN_VALUES = {"catkd", "sdd", "simkd"}
# What is trained before the student and then frozen, or borrowed from the teacher.
FROZEN = {"ft": ("paraphraser", "decoder"), "simkd": ("weight", "bias")}


def for_classes() -> list[str]:
    """Those for numbers alone are in tests/text/test_numbers.py."""
    return [name for name in METHODS if METHODS[name].kinds != ("numbers",)]


every_method = pytest.mark.parametrize("name", for_classes())
every_pair = pytest.mark.parametrize(("teacher", "student"), PAIRS, ids=[f"{t}-{s}" for t, s in PAIRS])


def make(kind: str, classes: int, *seed: object) -> Net:
    """With linear layers ten times as strong as timm makes them: attention and probabilities as of trained nets."""
    net = build_net(ModelSpec(**NETS[kind]), picture_task(classes, SIDE), kind, *seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear):
                module.weight *= 10
    return net.eval()  # in train mode some can't take a single picture


@cache
def net(kind: str, classes: int, device: str = "cpu") -> Net:
    with torch.device(device):
        return make(kind, classes).to(device)


@cache
def frozen(kind: str, classes: int) -> Net:
    return freeze(make(kind, classes, "teacher"), CPU)


def task(classes: int, size: int, device: str = "cpu") -> Task:
    targets = torch.arange(PICTURES, device=device) % classes
    return replace(picture_task(classes, SIDE, PICTURES), batch_size=size, targets=targets)


@cache
def batch(classes: int, size: int) -> Batch:
    with seeded("batch", classes, size):
        index = torch.randperm(PICTURES)[:size]
        colours = torch.rand(size, 3, 1, 1)  # else all pictures are alike to an untrained net
        pictures = {view: colours * torch.rand(size, 3, SIDE, SIDE) for view in ("images", *VIEWS)}
    return Batch(pictures.pop("images"), index % classes, index, torch.tensor(0.5), dict(pictures))


@cache
def taught(kind: str, needs: frozenset[str], classes: int, size: int, precision: str) -> Outputs:
    if not needs:
        return Outputs(torch.zeros(size, 0))
    return forward_teacher(frozen(kind, classes), batch(classes, size), needs, precision)


@cache
def answers(kind: str, needs: frozenset[str], classes: int, size: int, precision: str) -> Outputs:
    with torch.no_grad(), autocast(CPU, precision):
        said = at_least_fp32(all_views(net(kind, classes), batch(classes, size), needs))
    return said if "peer" not in needs else replace(said, views={**said.views, "peer": Outputs(said.logits.flip(0))})


def said(kind: str, needs: frozenset[str], *setting: Any) -> Outputs:
    """The student's outputs, each a leaf that asks for a gradient."""
    return answers(kind, needs, *setting).map(lambda x: x.detach().clone().requires_grad_())


def tensors(outputs: Outputs) -> list[Tensor]:
    found: list[Tensor] = []
    outputs.map(found.append)
    return found


class Case:
    """A method built for a pair, as the engine builds it. Raises Inapplicable."""

    def __init__(self, name: str, teacher: str, student: str, setting: tuple[int, int, str], seed: int = 0) -> None:
        classes, size, _ = setting
        self.name, self.setting, self.needs = name, setting, (needs_of([name]), student_needs_of([name]))
        self.teacher, self.student = teacher, student
        job = task(classes, size)
        blank = [blank_outputs(net(student, classes), self.needs[1], job, CPU),
                 blank_outputs(frozen(teacher, classes), self.needs[0], job, CPU)]  # fmt: skip
        self.objective = Objective(objective({name: 1.0}))
        self.objective.build(*blank, job, seed)
        self.method = next(self.objective.terms()).method
        self.objective.train()

    def prepare(self) -> None:
        heard = taught(self.teacher, self.needs[0], *self.setting)
        self.objective.prepare(lambda number: iter([(heard, batch(*self.setting[:2]))]), 0)

    def run(self, change: Callable[[Outputs], Outputs] = lambda x: x) -> tuple[Tensor, Outputs]:
        """The summed loss of one step, and the student's outputs. The method sees the teacher's as they must stay."""
        student = change(said(self.student, self.needs[1], *self.setting))
        teacher = taught(self.teacher, self.needs[0], *self.setting)
        before = [x.clone() for x in tensors(teacher) + tensors(student)]
        with seeded("step"):
            *sums, losses = self.objective(student, teacher, batch(*self.setting[:2]))
        assert all(loss.ndim == 0 for loss in losses.values())
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(teacher) + tensors(student), strict=True))
        assert not any(x.requires_grad or x.grad is not None for x in tensors(teacher))
        return torch.stack(sums).sum(), student


def build(*case: Any) -> Case:
    try:
        return Case(*case)
    except Inapplicable as reason:
        pytest.skip(str(reason))


@every_pair
@every_method
def test_gradients_reach_the_student_and_every_adapter(name: str, teacher: str, student: str) -> None:
    case = build(name, teacher, student, USUAL)
    if is_rule(type(case.method)):
        pytest.skip("a rule on gradients has no loss of its own")
    case.prepare()
    loss, leaves = case.run()
    assert loss.isfinite()
    loss.backward()
    gradients = [x.grad for x in tensors(leaves) if x.grad is not None]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients), "no gradient reaches the student"
    for parameter_name, parameter in case.method.named_parameters():
        if parameter_name.startswith(FROZEN.get(name, ())):
            assert not parameter.requires_grad
        else:
            assert parameter.grad is not None, f"no gradient reaches {parameter_name}"
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any(), f"{parameter_name} gets a gradient of 0"


@every_pair
@every_method
def test_extremes_are_finite(name: str, teacher: str, student: str) -> None:
    for setting in EXTREMES:
        case = build(name, teacher, student, setting)
        loss, leaves = case.run()
        assert loss.isfinite(), setting
        if loss.requires_grad:
            loss.backward()
        reached = [*tensors(leaves), *case.method.parameters()]
        assert all(x.grad.isfinite().all() for x in reached if x.grad is not None), setting


@every_pair
@every_method
def test_same_seed_same_numbers_and_state(name: str, teacher: str, student: str) -> None:
    first, second = (build(name, teacher, student, USUAL) for _ in range(2))
    assert first.run()[0].equal(second.run()[0])
    other = build(name, teacher, student, USUAL, 1)
    other.objective.load_state_dict(first.objective.state_dict())
    assert first.run()[0].equal(other.run()[0])


def verdict(name: str, teacher: str, student: str, device: str) -> str | None:
    job, needs = task(10, 8, device), (student_needs_of([name]), needs_of([name]))
    try:
        sides = [blank_outputs(net(kind, 10, device), need, job, device) for kind, need in
                 zip((student, teacher), needs, strict=True)]  # fmt: skip
        with torch.device(device):
            Objective(objective({name: 1.0})).build(*sides, job, 0)
    except Inapplicable as reason:
        return str(reason)
    return None


@every_pair
@every_method
def test_verdict_needs_no_values(name: str, teacher: str, student: str) -> None:
    """What `plan` finds on the meta device is what the run will find; a reason is text for people."""
    on_cpu, on_meta = (verdict(name, teacher, student, device) for device in ("cpu", "meta"))
    assert on_cpu is None or len(on_cpu) > 10
    if name not in SHOWS_IN_VALUES or on_meta is not None:
        assert on_cpu == on_meta


@pytest.mark.parametrize("kind", ["cnn", "vit", "distilled_vit"])
@every_method
def test_zero_where_the_student_equals_the_teacher(name: str, kind: str) -> None:
    """Of methods that ask the teacher and have no trained part; the rest compare what is not equal."""
    case = build(name, kind, kind, USUAL)
    if not METHODS[name].needs or list(case.method.parameters()):
        pytest.skip("no teacher, or a trained part in between")
    if name in NEARLY_ZERO:
        pytest.skip(NEARLY_ZERO[name])
    same = taught(kind, case.needs[0] | case.needs[1], *USUAL)
    loss, _ = case.run(lambda _: same)
    usual, _ = case.run()
    assert usual.abs() > 1e-12
    assert (loss.abs() <= 1e-3 * usual.abs()) == (name not in NOT_ZERO), (loss.item(), usual.item())


def test_every_method_applies_somewhere() -> None:
    verdicts = {name: [verdict(name, *pair, "cpu") for pair in PAIRS] for name in for_classes()}
    assert [name for name, found in verdicts.items() if all(found)] == []


def test_exceptions_are_registered() -> None:
    """A method that goes takes its exceptions with it."""
    assert {*NOT_ZERO, *NEARLY_ZERO, *SHOWS_IN_VALUES, *FROZEN} <= set(METHODS)


def test_all_methods_occur_in_their_suite() -> None:
    suite = load_suite(Path(__file__).parents[2] / "suites" / "all-methods.yaml")
    assert {name for c in cells_of(suite) for name in c.methods} == set(for_classes())


def test_list_says_which_apply_to_a_pair(kdbench: Callable[..., tuple[int, str, str]]) -> None:
    pair = ("--pair", "cifar_resnet14", "cifar_resnet8", "--size", SIDE, "--classes", 10)
    code, out, _ = kdbench("list", "methods", *pair)
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[0] in METHODS}
    assert set(rows) == set(METHODS)
    unlike = {name for name, row in rows.items() if not row.rstrip().endswith(" yes")}
    assert unlike
    assert all("needs" in rows[name] for name in unlike)


def test_list_tells_a_method_s_settings(kdbench: Callable[..., tuple[int, str, str]]) -> None:
    name, default = "kd", "temperature=4.0"
    assert default in kdbench("list", "methods", name)[1]
    assert default not in kdbench("list", "methods")[1]

"""One contract for every transform over a dozen kinds of timm nets: it runs and changes what it says, or says why not.

A transform is in these tests from the moment it is registered.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from kdbench.method.contract import Inapplicable, Task
from kdbench.method.transform import TRANSFORMS, Conversion, Given, Reshape, register_transform
from kdbench.nets import Net, build_net, register_net
from kdbench.suite.load import ModelSpec
from kdbench.suite.plugins import load_methods
from kdbench.suite.steps import steps_of
from kdbench.train.delivery import converted, deliver
from kdbench.train.onnx_file import FileNet, arrays_of, onnx_file
from kdbench.train.student import Delivered, Student
from kdbench.train.transforms import rebuilt, shapes_of, stand_ins, transformed
from kdbench.vision.batches import picture_task
from kdbench.vision.nets import TimmNet

load_methods()
TOKENS = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 2}
NETS: dict[str, dict[str, Any]] = {
    "resnet": {"model": "cifar_resnet8", "widths": [4, 4, 8, 16]},
    "bottleneck": {"model": "resnet26", "layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
    "shufflenet": {"model": "cifar_shufflenetv2"},
    "mobilenetv3": {"model": "mobilenetv3_small_050"},
    "mobilenetv2": {"model": "mobilenetv2_035"},
    "regnet": {"model": "regnetx_002"},
    "convnext": {"model": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "densenet": {"model": "densenet121", "block_config": [2, 2], "growth_rate": 8},
    "vit": {"model": "vit_tiny_patch16_224", **TOKENS},
    "distilled vit": {"model": "deit_tiny_distilled_patch16_224", **TOKENS},
    "swin": {"model": "swin_tiny_patch4_window7_224", "img_size": 32, "patch_size": 2, "window_size": 4,
             "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2]},
    "mixer": {"model": "tiny_mixer"},
}  # fmt: skip
RESHAPES = [name for name in TRANSFORMS if issubclass(TRANSFORMS[name], Reshape)]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in RESHAPES),
    ("prune", {"importance": "bn_scale"}),
    ("prune", {"importance": "taylor", "over": "net", "steps": 2}),
    ("low_rank", {"energy": 0.7}),
]
# Which do not apply, and a word of the reason
NO_NORMS = dict.fromkeys(("convnext", "vit", "distilled vit", "swin", "mixer"), "needs batch norms")
SHUFFLES = {"shufflenet": "Torch-Pruning can't follow"}
INAPPLICABLE = {
    "prune": SHUFFLES,
    "prune bn_scale": NO_NORMS | SHUFFLES,
    "prune taylor": SHUFFLES | {"mixer": "finds no channel"},
}  # its untrained head is 0


@register_net("tiny_mixer")
def tiny_mixer(task: Task) -> Net:
    return TimmNet(MlpMixer(task.num_classes, img_size=32, patch_size=8, num_blocks=2, embed_dim=24))


@cache
def task() -> Task:
    return picture_task(10, 32)


def net(kind: str, seed: int = 0) -> Net:
    return build_net(ModelSpec.model_validate(NETS[kind]), task(), seed).eval()


def reshaped(kind: str, name: str, settings: dict[str, Any], seed: int = 0) -> Net:
    inputs = task().inputs
    return transformed(net(kind, seed), steps_of([{name: settings}]), inputs, stand_ins(inputs, 10))


def size(net: Net) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize(("name", "settings"), VARIANTS, ids=str)
def test_every_transform_on_every_kind_of_net(kind: str, name: str, settings: dict[str, Any]) -> None:
    why = INAPPLICABLE.get(" ".join([name, *([settings["importance"]] if "importance" in settings else [])]), {})
    if kind in why:
        with pytest.raises(Inapplicable, match=f"^{name} .*{why[kind]}"):
            reshaped(kind, name, settings)
        return
    plain, made = net(kind), reshaped(kind, name, settings)
    assert shapes_of(made) != shapes_of(plain)
    inputs = task().inputs.random(3)
    logits = made(inputs).logits
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    made.train()(inputs).logits.square().sum().backward()
    assert all(p.grad is not None for p in made.model.parameters() if p.requires_grad)
    # A file of it can be read by whoever has its record: another net's weights decide other things.
    twin = rebuilt(net(kind, 1), made.structure, task().inputs)
    assert shapes_of(twin) == shapes_of(made)
    twin.model.load_state_dict(made.model.state_dict())
    torch.testing.assert_close(twin.eval()(inputs).logits, made.eval()(inputs).logits)


def channels(net: Net) -> dict[str, int]:
    return {name: part.out_channels for name, part in net.model.named_modules() if isinstance(part, nn.Conv2d)}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_pruning_takes_the_share_of_channels_that_it_says(share: float) -> None:
    before, after = channels(net("resnet")), channels(reshaped("resnet", "prune", {"share": share}))
    assert {name: after[name] / count for name, count in before.items()} == dict.fromkeys(before, 1 - share)


def test_pruning_the_least_important_channels_moves_the_logits_least() -> None:
    """Channels of weight 0 go first; then nothing changes at all."""
    plain = net("resnet")
    with torch.no_grad():
        for block in (plain.model.layer1[0], plain.model.layer2[0], plain.model.layer3[0]):
            half = len(block.conv1.weight) // 2
            block.conv1.weight[:half] = 0
            block.conv2.weight[:, :half] = 0
    inputs, pruned = task().inputs, build_net(ModelSpec.model_validate(NETS["resnet"]), task(), 0).eval()
    pruned.model.load_state_dict(plain.model.state_dict())
    made = transformed(pruned, steps_of([{"prune": {"share": 0.5}}]), inputs, stand_ins(inputs, 10))
    inner = made.model.layer3[0].conv1
    assert inner.out_channels == plain.model.layer3[0].conv1.out_channels // 2
    assert bool((inner.weight.flatten(1).norm(dim=1) > 0).all())


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_low_rank_keeps_the_share_of_weights_that_it_says(share: float) -> None:
    plain, made = net("vit"), reshaped("vit", "low_rank", {"share": share})
    for entry in made.structure:
        for name in entry["record"]:
            full = plain.model.get_submodule(name).weight.numel()
            kept = sum(p.numel() for n, p in made.model.get_submodule(name).named_parameters() if n.endswith("weight"))
            assert 0.8 * share * full < kept <= share * full


def test_low_rank_is_the_nearest_of_its_rank() -> None:
    """By Eckart and Young: what is lost is the energy of the singular values left out."""
    plain, made = net("vit"), reshaped("vit", "low_rank", {"share": 0.5})
    name, rank = next(item for item in made.structure[0]["record"].items() if item[0].endswith("qkv"))
    weight, (first, second) = plain.model.get_submodule(name).weight, made.model.get_submodule(name)
    lost = (weight - second.weight @ first.weight).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(weight)[rank:].square().sum())


def test_a_step_that_leaves_the_net_as_it_was_is_told() -> None:
    @register_transform("idle")
    class Idle(Reshape):
        def __init__(self) -> None: ...

        def apply(self, model: nn.Module, given: Given) -> None: ...

    with pytest.raises(Inapplicable, match="idle left CifarResNet as it was"):
        reshaped("resnet", "idle", {})


@register_net("all_convolutions")
def all_convolutions(task: Task) -> nn.Module:
    """As SqueezeNet: no dense layer at all."""
    first, last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, task.num_classes, 1)
    return nn.Sequential(first, nn.ReLU(), last, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@register_net("head_first")
class HeadFirst(nn.Module):
    """Its classifier is not the last layer that it declares."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.fc, self.conv, self.proj = nn.Linear(32, task.num_classes), nn.Conv2d(3, 16, 3), nn.Linear(16, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.proj(self.conv(x).relu().mean((2, 3))).relu())
        return logits


@pytest.mark.parametrize("model", ["all_convolutions", "head_first"])
@pytest.mark.parametrize("name", ["prune", "low_rank"])
def test_no_class_is_lost_where_a_net_does_not_say_what_its_classifier_is(model: str, name: str) -> None:
    inputs = task().inputs
    made = build_net(ModelSpec.model_validate({"model": model}), task(), 0)
    transformed(made, steps_of([name]), inputs, stand_ins(inputs, 10))
    assert made(inputs.random(2)).logits.shape == (2, 10)
    classifier = made.model[2] if model == "all_convolutions" else made.model.fc
    assert isinstance(classifier, nn.Conv2d | nn.Linear)  # factored it would be two
    if model == "head_first" and name == "prune":
        assert made.model.proj.out_features == 16


def test_a_transform_that_takes_classes_does_not_apply() -> None:
    @register_transform("greedy")
    class Greedy(Reshape):
        def __init__(self) -> None: ...

        def apply(self, model: nn.Module, given: Given) -> None:
            model.fc = nn.Linear(model.fc.in_features, 5)

    with pytest.raises(Inapplicable, match="greedy leaves CifarResNet 5 of its 10 logits"):
        reshaped("resnet", "greedy", {})


def test_training_for_int8_rounds_as_by_hand() -> None:
    """A layer's output after some batches, worked out with its range and scales in double precision."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    before = layer.weight.detach().clone()
    model = nn.Sequential(layer)
    TRANSFORMS["int8_aware"]().rebuild(model, ["0"], None)
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model.train()(x)
        found = model.eval()(x)
    low, high = float(x.min()), float(x.max())
    scale = (high - low) / 255
    zero = round(-low / scale)
    steps = ((x.double() / scale).round() + zero).clamp(0, 255) - zero
    each = before.double().flatten(1).abs().amax(1)[:, None, None, None] / 127
    weight = (before.double() / each).round() * each
    expected = nn.functional.conv2d(steps * scale, weight, layer.bias.detach().double())
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    plain = nn.functional.conv2d(x, before, layer.bias.detach())
    assert float((found - plain).abs().max()) > 1e-3  # that is no small change of the last digit


def test_a_net_rounds_but_once() -> None:
    made = reshaped("resnet", "int8_aware", {})
    with pytest.raises(Inapplicable, match="int8_aware finds CifarResNet rounding already"):
        transformed(made, steps_of(["int8_aware"]), task().inputs, stand_ins(task().inputs, 10))


def test_the_file_of_training_for_int8_answers_nearly_as_the_net_did() -> None:
    inputs = task().inputs
    made = transformed(net("resnet"), steps_of(["int8_aware"]), inputs, stand_ins(inputs, 10))
    shown = [torch.from_numpy(given[inputs.fields[0].name]) for given in few(64)]
    with torch.no_grad():
        for batch in shown * 20:
            made.train()(batch)
        expected = made.eval()(shown[0]).logits
    file = deliver(Delivered(made), inputs, steps_of(["int8"]), lambda n: ((x, x) for x in shown), {}).file
    found = FileNet(file, inputs)(shown[0]).logits
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


# --- conversions, on files ---

CONVERSIONS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in TRANSFORMS if issubclass(TRANSFORMS[name], Conversion)),
    ("int8", {"ranges": "dynamic"}),
    ("int4", {"block": 16}),
]
# Nets small enough that exporting them takes a second or two: a CNN, a ViT, an MLP.
FILES = ("resnet", "vit", "mixer")
TOO_NARROW = {("int4 32", "resnet"): "finds no dense layer of 32 inputs or more"}


@cache
def delivered(kind: str) -> tuple[Student, bytes]:
    student = Student(Delivered(net(kind)), task().inputs).eval()
    return student, onnx_file(student, {})


def few(n: int) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return (arrays_of(task().inputs.random(32, generator=generator), task().inputs) for _ in range(2))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(("name", "settings"), CONVERSIONS, ids=str)
def test_every_conversion_on_every_kind_of_net(kind: str, name: str, settings: dict[str, Any]) -> None:
    student, file = delivered(kind)
    [step] = steps_of([{name: settings}])
    why = TOO_NARROW.get((" ".join(map(str, [name, *step[name].values()])), kind))
    if why is not None:
        with pytest.raises(Inapplicable, match=f"^{name} {why}"):
            converted(file, step, student, task().inputs, few)
        return
    made = converted(file, step, student, task().inputs, few)
    inputs = task().inputs.random(8)
    with torch.inference_mode():
        expected, found = student(inputs), FileNet(made, task().inputs)(inputs).logits
    assert made != file
    assert (found - expected).abs().max() < 0.2 * expected.abs().max() + 0.05
    if name in ("fp16", "bf16"):
        assert len(made) < 0.85 * len(file)

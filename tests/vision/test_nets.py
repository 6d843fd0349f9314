"""The literature's CIFAR nets: sizes from the definitions, graphs against formulas, timm's interface, checkpoints."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from published_nets import NETS, Formula
from safetensors.torch import save_file
from torch import Tensor

import kdbench.vision.cifar  # noqa: F401  (registers the nets)
from kdbench.errors import UserError
from kdbench.method.contract import Inapplicable
from kdbench.nets import build_net
from kdbench.suite.load import ModelSpec
from kdbench.train.profiling import size
from kdbench.vision.batches import picture_task, pictures
from kdbench.vision.cifar.staged import StagedNet
from kdbench.vision.nets import TimmNet
from kdbench.weights import load_weights

pytestmark = pytest.mark.usefixtures("one_thread")
BIG = "cifar_resnet50"  # slow on a CPU: one picture is enough
SIDE = 16  # of pictures where the size does not matter: a quarter of the work


@cache
def reference(name: str) -> tuple[Formula, Tensor, Tensor]:
    """A checkpoint under the published names, pictures [2, 3, 32, 32], and their logits by formula."""
    formula, arguments, _ = NETS[name]
    made = Formula()
    images = torch.rand(1 if name == BIG else 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return made, images, formula(made, images, *arguments, classes=100)


def build(name: str, **options: object) -> StagedNet:
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 100, **options})


def test_every_registered_net_is_tested() -> None:
    assert set(timm.list_models("cifar_*")) == set(NETS)


@pytest.mark.parametrize("name", NETS)
def test_size_is_that_of_the_definition_and_of_the_literature(name: str) -> None:
    made, *_ = reference(name)
    found = size(build(name), pictures(32, 32))
    assert found["params"] == made.params == sum(v.numel() for k, v in made.state.items() if not is_statistic(k))
    assert found["macs"] == made.macs
    assert round(made.params / 1e6, 2) == NETS[name][2]


def is_statistic(name: str) -> bool:
    return "running" in name or "num_batches" in name


@pytest.mark.parametrize("name", NETS)
def test_published_checkpoint_gives_the_formulas_logits(name: str, tmp_path: Path) -> None:
    made, images, logits = reference(name)
    saved = {"model": {f"module.{k}": v for k, v in made.state.items()}, "epoch": 240, "best_acc": np.float64(72.3)}
    torch.save(saved, tmp_path / "ckpt.pth")
    net = build(name).eval()
    load_weights(net, tmp_path / "ckpt.pth")
    with torch.no_grad():
        torch.testing.assert_close(net(images), logits, rtol=1e-3, atol=1e-3 * float(logits.std()))


@pytest.mark.parametrize("name", NETS)
def test_forward_backward_and_features(name: str) -> None:
    net = build(name)
    images = torch.rand(2, 3, SIDE, SIDE)
    last, maps = net.forward_intermediates(images)
    assert isinstance(maps, list)
    assert [m.shape[1] for m in maps] == [stage["num_chs"] for stage in net.feature_info]
    assert [SIDE // m.shape[-1] for m in maps] == [stage["reduction"] for stage in net.feature_info]
    logits = net.forward_head(last)
    assert net.forward_head(last, pre_logits=True).shape == (2, net.num_features)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", NETS)
def test_net_says_what_the_model_says(name: str) -> None:
    """Outputs are the model's own to the bit, whatever else is asked for; its classifier reads the embedding."""
    net = TimmNet(build(name).eval())
    images = torch.rand(2, 3, SIDE, SIDE)
    wanted = ("features", "embedding", "preacts", "classifier")
    with torch.no_grad():
        plain = net(images).logits
        said = net(images, wanted)
        assert torch.equal(plain, net.model(net.normalise(images)))
    assert torch.equal(said.logits, plain)
    assert said.embedding is not None
    assert said.classifier is not None
    weight, bias = said.classifier
    torch.testing.assert_close(said.embedding @ weight.T + bias, said.logits)
    assert [p.shape for p in said.preacts] == [f.shape for f in said.features]
    for before, after in zip(said.preacts, said.features, strict=True):
        assert_precedes(name, before, after)


def assert_precedes(name: str, before: Tensor, after: Tensor) -> None:
    if "wrn" in name:  # the stages' sums come before the batch norm and the ReLU
        return
    if name == "cifar_mobilenetv2":  # but for the stem, no activation ends a stage
        assert torch.equal(before, after) or torch.equal(before.relu(), after)
    elif "shufflenetv2" in name and after.shape[1] != 24:  # shuffled
        torch.testing.assert_close(before.relu().flatten(1).sort(1)[0], after.flatten(1).sort(1)[0])
    else:
        assert torch.equal(before.relu(), after)


def test_preacts_of_a_wide_resnet_are_what_its_next_batch_norm_makes_of_a_stage() -> None:
    net = TimmNet(build("cifar_wrn_16_1").eval())
    said = net(torch.rand(2, 3, SIDE, SIDE), ("features", "preacts", "norms"))
    norms = [*(net.model.get_submodule(f"block{i}.0.bn1") for i in (1, 2, 3)), net.model.bn1]
    for norm, before, after, both in zip(norms, said.preacts, said.features, said.norms, strict=True):
        assert torch.equal(norm(after), before)
        assert torch.equal(both, torch.stack([norm.weight, norm.bias]))


def test_a_shufflenetv2_has_no_batch_norm_before_a_whole_map() -> None:
    with pytest.raises(Inapplicable, match="needs a batch norm before each stage's last activation"):
        TimmNet(build("cifar_shufflenetv2"))(torch.rand(2, 3, SIDE, SIDE), ("norms",))


@pytest.mark.parametrize("name", NETS)
def test_timms_interface(name: str, tmp_path: Path) -> None:
    """features_only, other class counts and channels, reset_classifier, a checkpoint of our own."""
    backbone = build(name, features_only=True, out_indices=(1, 2), in_chans=1)
    maps = backbone(torch.rand(1, 1, SIDE, SIDE))
    assert [m.shape[1] for m in maps] == backbone.feature_info.channels()
    net = build(name, in_chans=1, num_classes=7).eval()
    assert net(torch.rand(1, 1, SIDE, SIDE)).shape == (1, 7)
    torch.save(net.state_dict(), tmp_path / "ours.pth")
    other = timm.create_model(name, in_chans=1, num_classes=7).eval()
    load_weights(other, tmp_path / "ours.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    net.reset_classifier(3)
    assert net(torch.rand(1, 1, SIDE, SIDE)).shape == (1, 3)
    net.reset_classifier(0)
    assert net(torch.rand(1, 1, SIDE, SIDE)).shape == (1, net.num_features)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_vgg8", "cifar_mobilenetv2", "cifar_shufflenetv2"])
def test_pictures_of_64_pixels(name: str) -> None:
    """As published, VGG pools once more for them; the others end in maps twice as large."""
    _, maps = build(name).eval().forward_intermediates(torch.rand(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == {
        "cifar_resnet8": [64, 64, 32, 16], "cifar_vgg8": [64, 32, 16, 8, 4],
        "cifar_mobilenetv2": [32, 32, 16, 8, 4], "cifar_shufflenetv2": [64, 32, 16, 8],
    }[name]  # fmt: skip


def test_drop_out_is_in_training_only() -> None:
    net = build("cifar_resnet8", drop_rate=0.5)
    maps = torch.ones(8, 64, 8, 8)
    assert set(net.forward_head(maps, pre_logits=True).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(net.eval().forward_head(maps, pre_logits=True), torch.ones(8, 64))


@pytest.mark.parametrize("wrong", [{"depth": 21}, {"widths": [4, 4]}, {"global_pool": "max"}, {"wdth": 3}])
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match="can't be built"):
        build_net(ModelSpec(model="cifar_resnet20", **wrong), picture_task(10, 32), 0)


# --- checkpoints that do not fit -------------------------------------------------------------------------------------


def test_a_checkpoint_that_does_not_fit_says_what_does(tmp_path: Path) -> None:
    state = dict(reference("cifar_wrn_16_1")[0].state)
    state["fc.weight"], state["fc.bias"] = torch.zeros(10, 64), torch.zeros(10)
    del state["bn1.weight"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "wrong.pth")
    net = build("cifar_wrn_16_1")
    with pytest.raises(UserError) as caught:
        load_weights(net, tmp_path / "wrong.pth")
    num = len(net.state_dict())
    assert str(caught.value) == (
        f"checkpoint {tmp_path / 'wrong.pth'} lacks bn1.weight; has unknown extra.weight; has another shape for "
        f"fc.bias ([10], here [100]), fc.weight ([10, 64], here [100, 64]); {num - 3} of the model's {num} tensors fit"
    )


@pytest.mark.parametrize(("content", "message"), [
    (b"", "it is empty"),
    (b"<!DOCTYPE html><title>Not found</title>", "it begins with b'<!DOCTYPE', as no such file does"),
])  # fmt: skip
def test_a_file_that_holds_no_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        load_weights(build("cifar_resnet8"), tmp_path / "x.pth")


def test_weights_must_be_numbers_and_a_name_says_nothing_of_the_kind(tmp_path: Path) -> None:
    state = build("cifar_resnet8").state_dict()
    save_file(state, tmp_path / "safe.bin")
    load_weights(build("cifar_resnet8"), tmp_path / "safe.bin")
    state["fc.bias"][3] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(UserError, match=r"not all values are numbers, e\.g\. of fc\.bias"):
        load_weights(build("cifar_resnet8"), tmp_path / "nan.pth")


def test_the_file_of_a_larger_net_is_called_so(tmp_path: Path) -> None:
    torch.save(build("cifar_resnet14").state_dict(), tmp_path / "larger.pth")
    with pytest.raises(UserError, match="if it is of a larger net of the kind, give that one's name"):
        load_weights(build("cifar_resnet8"), tmp_path / "larger.pth")


def test_a_checkpoint_without_batch_counters_fits(tmp_path: Path) -> None:
    state = reference("cifar_resnet8")[0].state
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "old.pth")
    net = build("cifar_resnet8")
    load_weights(net, tmp_path / "old.pth")
    assert torch.equal(net.get_submodule("layer1.0.bn2").weight, state["layer1.0.bn2.weight"])


class Malice:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("executed",)


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {}, "evil": Malice()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="can't be read safely"):
        load_weights(build("cifar_resnet8"), tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out

"""Nets of the user's own: a published checkpoint, torchvision's and transformers' nets, maps by names of modules."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEACHER
from torch import Tensor, nn

from kdbench.data import Splits, load_splits
from kdbench.errors import UserError
from kdbench.method.contract import Inapplicable
from kdbench.nets import Net, build_net
from kdbench.suite.load import load_suite
from kdbench.suite.models import ModelSpec
from kdbench.suite.plugins import load_plugin
from kdbench.train.evaluation import evaluate_one
from kdbench.vision.batches import picture_task
from kdbench.weights import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")
PLUGIN = Path(__file__).parents[2] / "examples/published_resnet.py"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
TASK = picture_task(10, 16)
STAGES = ["layer1", "layer2", "layer3"]
Run = Callable[..., tuple[int, str, str]]


def built(model: str, **entries: Any) -> Net:
    return build_net(ModelSpec(model=model, **entries), entries.pop("task", TASK), 0)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_splits("digits", {}, Path())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, digits: Splits) -> tuple[Path, float]:
    """A net trained in a loop of its own on ImageNet-normalised pictures, saved as its authors do; its accuracy."""
    load_plugin(PLUGIN)
    spec = ModelSpec(model="published_resnet", depth=8, width=4)
    net = nn.DataParallel(build_net(spec, digits.task, 0).model)
    pixels, targets = images_of(digits.train)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for step in range(100):
        part = torch.arange(step * 64, step * 64 + 64) % len(targets)
        loss = nn.functional.cross_entropy(net((pixels[part] - MEAN) / STD), targets[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.eval()
    pixels, targets = images_of(digits.test)
    with torch.no_grad():
        top1 = 100 * float((net((pixels - MEAN) / STD).argmax(1) == targets).double().mean())
    path = tmp_path_factory.mktemp("published") / "resnet8.th"
    torch.save({"state_dict": net.state_dict(), "best_prec1": top1}, path)
    return path, top1


def images_of(split: Any) -> tuple[Tensor, Tensor]:
    [batch] = split.in_order(len(split))
    return batch.inputs, batch.target


def test_a_published_net_enters_by_twenty_lines_and_keeps_its_accuracy(
    published: tuple[Path, float], suite_file: Callable[..., Path], kdbench: Run, digits: Splits
) -> None:
    code = [line for line in PLUGIN.read_text().splitlines() if line.strip() and not line.startswith('"""')]
    assert len(code) <= 20
    path, top1 = published
    assert top1 > 80
    net = {"model": "published_resnet", "depth": 8, "width": 4, "normalise": "imagenet", "feature_modules": STAGES}
    suite = suite_file(
        plugins=[str(PLUGIN)],
        pairs=[{"teacher": {**net, "checkpoint": str(path)}, "student": net}],
        methods={"at": {"ce": 1, "at": 1000}},
        train={"epochs": 1, "batch_size": 256, "augment": "none"},
    )
    code_of_run, out, err = kdbench("run", suite)
    assert code_of_run == 0, err
    assert f"Teacher: {top1:.2f}% top-1" in out


@pytest.mark.parametrize(
    ("wrap", "entry"),
    [
        (lambda w: w, None),
        (lambda w: {"state_dict": w, "epoch": 3, "arch": "resnet"}, None),
        (lambda w: {"model": {f"module.{k}": v for k, v in w.items()}, "args": Namespace(lr=0.1)}, None),
        (lambda w: {"model_ema": {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in w.items()}}}, None),
        (lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}, "optimizer": {"state": {0: w}}}, None),
        (lambda w: {"model": {f"_orig_mod.{k}": v for k, v in w.items()}}, None),
        (lambda w: {"model": zeros(w), "model_ema": w}, "model_ema"),
        (lambda w: {"student": zeros(w), "teacher": {f"module.backbone.{k}": v for k, v in w.items()}}, "teacher"),
    ],
    ids=["bare", "state_dict", "DDP and arguments", "averaged", "lightning", "compiled", "ema chosen", "DINO"],
)
def test_checkpoints_in_the_usual_forms(tmp_path: Path, wrap: Callable[[Any], Any], entry: str | None) -> None:
    load_plugin(PLUGIN)
    net, path = {"model": "published_resnet", "depth": 8, "width": 2}, tmp_path / "net.th"
    weights = built(**net).model.state_dict()
    torch.save(wrap(weights), path)
    found = build_net(ModelSpec(**net, checkpoint=str(path), checkpoint_entry=entry), TASK, 1).model.state_dict()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def zeros(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in weights.items()}


def test_which_of_several_tables_is_asked_for(tmp_path: Path, suite_file: Callable[..., Path]) -> None:
    path = tmp_path / "both.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "state_dict_ema": {"a": torch.ones(1)}, "lr": 0.1}, path)
    with pytest.raises(UserError, match=r"checkpoint_entry.*'state_dict', 'state_dict_ema'"):
        read_weights(path)
    pair = {"teacher": {"model": "cifar_resnet14", "checkpoint": str(path), "checkpoint_entry": "ema"},
            "student": {"model": "cifar_resnet8", "head": "new"}}  # fmt: skip
    with pytest.raises(UserError) as caught:
        load_suite(suite_file(pairs=[pair]))
    assert "unknown entry 'ema'; there are: state_dict, state_dict_ema" in str(caught.value)
    assert "head is said of a checkpoint; there is none" in str(caught.value)


def test_feature_modules_that_are_not_there_are_answered_with_those_that_are() -> None:
    load_plugin(PLUGIN)
    with pytest.raises(UserError, match=r"unknown module of Sequential 'blokk'; among them are: conv1, bn1, .*layer1"):
        built("published_resnet", feature_modules=("blokk",))
    with pytest.raises(UserError, match=r"'layer_1'; did you mean 'layer1'"):
        built("cifar_resnet8", feature_modules=("layer_1",))


def test_maps_of_named_modules_are_those_of_timm() -> None:
    net = built("cifar_resnet8", feature_modules=STAGES).eval()
    own = built("cifar_resnet8").eval()
    x = torch.rand(2, 3, 16, 16)
    ours, timms = net(x, ("features",)), own(x, ("features",))
    assert torch.equal(ours.logits, timms.logits)
    assert [f.shape for f in ours.features] == [f.shape for f in timms.features[1:]]
    assert torch.equal(ours.features[-1], timms.features[-1])
    tokens = built("vit_tiny_patch16_224", patch_size=4, depth=2, feature_modules=("blocks.0", "blocks.1"))
    assert [f.shape for f in tokens(x, ("features",)).features] == [(2, 192, 4, 4)] * 2


def test_normalisation_of_the_suite_takes_the_place_of_the_nets_own() -> None:
    x = torch.rand(2, 3, 16, 16)
    plain = built("cifar_resnet8", normalise={"mean": [0.0], "std": [1.0]}).eval()
    said = built("cifar_resnet8", normalise={"mean": MEAN.flatten().tolist(), "std": STD.flatten().tolist()}).eval()
    assert torch.equal(said(x).logits, plain((x - MEAN) / STD).logits)
    assert "0.485" in said.about()["mean"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
def test_torchvisions_nets_come_through_the_same_door(name: str) -> None:
    options = {"img_size": 224} if name == "vit_b_16" else {}
    with torch.device("meta"):
        net = built(f"torchvision/{name}", **options).to("meta").eval()
    outputs = net(torch.rand(2, 3, 32, 32, device="meta"), ("embedding", "classifier"))
    assert outputs.logits.shape == (2, 10)
    assert outputs.embedding is not None
    assert outputs.classifier is not None
    assert outputs.embedding.shape[1] == outputs.classifier[0].shape[1]
    if name == "resnet18":
        assert len(net(torch.rand(2, 3, 32, 32, device="meta"), ("features",)).features) == 4


def test_pretrained_weights_of_torchvision_keep_all_but_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with torch.random.fork_rng():
        whole = models.shufflenet_v2_x0_5()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    file = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    torch.save(whole.state_dict(), tmp_path / "hub/checkpoints" / file)
    net = built("torchvision/shufflenet_v2_x0_5", pretrained=True)
    assert torch.equal(net.model.conv1[0].weight, whole.conv1[0].weight)
    assert net.model.fc.weight.shape == (10, 1024)


def test_a_net_of_transformers(suite_file: Callable[..., Path], kdbench: Run) -> None:
    """With its embedding, maps and attention; trained as a student by a timm teacher."""
    pytest.importorskip("transformers", reason="needs the extra `transformers`")
    vit = {"model": "transformers/vit", "patch_size": 2, "hidden_size": 16, "num_hidden_layers": 2,
           "num_attention_heads": 2, "intermediate_size": 32, "feature_modules": ["vit.layers.0", "vit.layers.1"],
           "normalise": "half"}  # fmt: skip
    net = built(**{**vit, "task": picture_task(10, 8)})
    outputs = net(torch.rand(2, 3, 8, 8), ("embedding", "features", "attention", "classifier"))
    assert outputs.logits.shape == (2, 10)
    assert [f.shape for f in outputs.features] == [(2, 16, 4, 4)] * 2
    assert [a.shape for a in outputs.attention] == [(2, 2, 17, 17)] * 2
    assert outputs.embedding is not None
    weight, bias = outputs.classifier or ()
    torch.testing.assert_close(outputs.embedding @ weight.T + bias, outputs.logits)
    with pytest.raises(Inapplicable, match="needs preacts"):
        net(torch.rand(2, 3, 8, 8), ("preacts",))
    pairs = [{"teacher": TEACHER, "student": vit}]
    code, out, err = kdbench("run", suite_file(pairs=pairs, methods={"pkt": {"ce": 1, "pkt": 1000}}))
    assert code == 0, err
    assert "transformers/vit" in out


def test_names_of_each_family_are_its_own(suite_file: Callable[..., Path]) -> None:
    pair = {"teacher": "torchvision/resnet81", "student": "cifar_resnte8"}
    with pytest.raises(UserError) as caught:
        load_suite(suite_file(pairs=[pair]))
    assert "unknown model 'torchvision/resnet81'; did you mean 'torchvision/resnet18'?" in str(caught.value)
    assert "unknown model 'cifar_resnte8'; did you mean 'cifar_resnet" in str(caught.value)


def test_the_normalisation_that_is_said_matters(published: tuple[Path, float], digits: Splits) -> None:
    load_plugin(PLUGIN)
    path, top1 = published
    net = {"model": "published_resnet", "depth": 8, "width": 4, "checkpoint": str(path)}
    scores = [evaluate_one(build_net(ModelSpec(**net, normalise=name), digits.task).eval(), digits.test, "fp32").scores
              for name in ("imagenet", "clip")]  # fmt: skip
    assert scores[0]["top1"] == pytest.approx(top1)
    assert scores[1]["nll"] != scores[0]["nll"]


def test_a_new_head_takes_all_else_from_the_checkpoint(tmp_path: Path, published: tuple[Path, float]) -> None:
    load_plugin(PLUGIN)
    net = {"model": "published_resnet", "depth": 8, "width": 4, "checkpoint": str(published[0])}
    task = picture_task(7, 16)
    with pytest.raises(UserError, match=r"another shape for linear\.bias"):
        build_net(ModelSpec(**net), task)
    made = [build_net(ModelSpec(**net, head="new"), task, seed).model for seed in (0, 1)]
    assert made[0].linear.weight.shape == (7, 16)
    assert torch.equal(made[0].layer3[0].conv1.weight, made[1].layer3[0].conv1.weight)
    assert not torch.equal(made[0].linear.weight, made[1].linear.weight)


@pytest.mark.parametrize("names", [["backbone"], ["conv1", "bn1", "layer1"]])
def test_frozen_parts_end_as_they_began(
    names: list[str], published: tuple[Path, float], suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    """Their weights and their batch norms' statistics; the rest learns."""
    net = {"model": "published_resnet", "depth": 8, "width": 4, "checkpoint": str(published[0])}
    suite = suite_file(plugins=[str(PLUGIN)], pairs=[{"teacher": net, "student": {**net, "freeze": names}}],
                       methods={"kd": {"kd": 1}}, train={"epochs": 1, "batch_size": 256})  # fmt: skip
    code, _, err = kdbench("run", suite)
    assert code == 0, err
    [file] = (tmp_path / "results/tiny/students").glob("*.safetensors")
    before, after = read_weights(published[0]), read_weights(file)
    same = {name for name in before if torch.equal(before[name], after[name])}
    frozen = set(before) - {"linear.weight", "linear.bias"}
    if names != ["backbone"]:
        frozen = {name for name in before if name.startswith(("conv1", "bn1", "layer1"))}
    assert same == frozen


@pytest.mark.parametrize("model", ["torchvision/shufflenet_v2_x0_5", "torchvision/mnasnet0_5", "published_resnet"])
def test_a_backbone_comes_without_its_checkpoint_s_classifier(model: str, tmp_path: Path) -> None:
    """`num_classes: 0`: whatever classes the file has, for nets whose head stays a layer of no outputs."""
    load_plugin(PLUGIN)
    known = built(model)
    torch.save(known.model.state_dict(), tmp_path / "ten.pth")
    backbone = built(model, num_classes=0, checkpoint=str(tmp_path / "ten.pth")).eval()
    with torch.no_grad():
        outputs = backbone(torch.rand(2, 3, 32, 32), ("embedding",))
    assert outputs.logits.shape == (2, 0)
    assert outputs.embedding is not None
    first = next(iter(known.model.state_dict()))
    assert torch.equal(backbone.model.state_dict()[first], known.model.state_dict()[first])

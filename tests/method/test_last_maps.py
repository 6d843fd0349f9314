"""Methods on the map before the pooling: where they apply, and that SimKD's student is scored as it was trained."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.nets import Net, build_net
from kdbench.suite.load import ModelSpec, objective
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of
from kdbench.train.student import Delivered
from kdbench.vision.batches import picture_task

# Every net of the CRD benchmark's thirteen pairs, thinner or shorter where that changes no stage.
NETS = {
    "wrn": {"model": "cifar_wrn_16_1"},
    "resnet": {"model": "cifar_resnet8"},
    "resnet50": {"model": "cifar_resnet50"},
    "vgg": {"model": "cifar_vgg8", "widths": [8, 8, 8, 8, 12]},
    "mobilenetv2": {"model": "cifar_mobilenetv2"},
    "shufflenetv1": {"model": "cifar_shufflenetv1"},
    "shufflenetv2": {"model": "cifar_shufflenetv2"},
}
TASK, SMALL = picture_task(10, 32), picture_task(10, 16)


def net_of(kind: str, task: Task = TASK) -> Net:
    return build_net(ModelSpec(**NETS[kind]), task, kind).eval()


def built(name: str, teacher: Net, student: Net, task: Task = TASK) -> Objective:
    made = Objective(objective({name: 1.0}))
    says = blank_outputs(student, student_needs_of([name]), task, "cpu")
    made.build(says, blank_outputs(teacher, needs_of([name]), task, "cpu"), task, 0)
    return made


@pytest.mark.parametrize("kind", NETS)
def test_they_apply_to_every_net_of_the_benchmark(kind: str) -> None:
    """As their authors publish them: also where a norm or a convolution follows the last stage."""
    net = net_of(kind)
    for name in ("catkd", "sdd", "simkd"):
        built(name, net, net)


@pytest.mark.parametrize("kind", NETS)
def test_the_pooled_map_is_what_the_classifier_reads_the_mean_of(kind: str) -> None:
    net, pictures = net_of(kind), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        said = net(pictures, ("pooled_map", "classifier"))
    weight, bias = said.classifier
    torch.testing.assert_close(F.linear(said.pooled_map.mean((2, 3)), weight, bias), said.logits)


def test_tokens_have_no_pooled_map() -> None:
    options = {"img_size": 16, "patch_size": 4, "depth": 1, "embed_dim": 12, "num_heads": 2}
    net = build_net(ModelSpec(model="vit_tiny_patch16_224", **options), SMALL, 0)
    with pytest.raises(Inapplicable, match="gives tokens"):
        net(torch.rand(2, 3, 16, 16), ("pooled_map",))


def as_published(student: Net, made: Objective, pictures: Tensor, grid: int) -> Tensor:
    """SimKD's student by its paper: pool to the teacher's grid, project, average, the teacher's classifier."""
    method = next(made.terms()).method
    source = F.adaptive_avg_pool2d(student(pictures, ("features",)).features[-1], (grid, grid))
    return F.linear(method.adapter(source).mean((2, 3)), method.weight, method.bias)


def test_a_student_with_a_larger_map_than_its_teacher_is_scored_on_the_function_it_was_trained_as() -> None:
    teacher, student = net_of("vgg", SMALL), net_of("resnet", SMALL)  # maps of 2 x 2 and 4 x 4
    made = built("simkd", teacher, student, SMALL).train()
    pictures = torch.rand(64, 3, 16, 16)
    with torch.no_grad():
        for _ in range(10):  # running statistics of the maps that it trains on
            made(student(pictures, ("features",)), teacher(pictures, needs_of(["simkd"])), None)
        deployed = Delivered(student, made.eval())(pictures).logits
        torch.testing.assert_close(deployed, as_published(student, made, pictures, grid=2))


def test_a_teacher_with_a_larger_map_is_pooled_to_its_student_s() -> None:
    teacher, student = net_of("resnet", SMALL), net_of("vgg", SMALL)
    made = built("simkd", teacher, student, SMALL)
    pictures = torch.rand(4, 3, 16, 16)
    said: Outputs = student(pictures, ("features",))
    *_, losses = made.eval()(said, teacher(pictures, needs_of(["simkd"])), None)
    target = F.adaptive_avg_pool2d(teacher(pictures, ("features",)).features[-1], (2, 2))
    torch.testing.assert_close(
        losses["simkd"], F.mse_loss(next(made.terms()).method.adapter(said.features[-1]), target)
    )

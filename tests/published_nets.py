"""The CRD benchmark's nets as formulas under the names of its public checkpoints: an independent reference.

Each function walks through a net as its paper defines it and asks `Formula` for every convolution, batch norm and
linear layer by its published name. `Formula` makes the weights as they are asked for (so a run leaves a checkpoint),
computes the outputs, and counts parameters and multiply-adds by the textbook formulas.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


class Formula:
    """`state`: published name -> weight; `params`, `macs` (of one picture): counted layer by layer."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self.params, self.macs = 0, 0
        self.generator = torch.Generator().manual_seed(0)

    def new(self, name: str, *shape: int, about: float = 0.0, scale: float = 1.0) -> Tensor:
        self.state[name] = about + scale * torch.randn(shape, generator=self.generator)
        return self.state[name]

    def conv(
        self, name: str, x: Tensor, out: int, k: int, stride: int = 1, groups: int = 1, bias: bool = False
    ) -> Tensor:
        ins = x.shape[1] // groups
        weight = self.new(f"{name}.weight", out, ins, k, k, scale=(ins * k * k) ** -0.5)
        y = F.conv2d(x, weight, self.new(f"{name}.bias", out) if bias else None, stride, k // 2, groups=groups)
        self.params += out * ins * k * k + out * bias
        self.macs += out * ins * k * k * y.shape[2] * y.shape[3]
        return y

    def bn(self, name: str, x: Tensor) -> Tensor:
        channels = x.shape[1]
        mean, weight = self.new(f"{name}.running_mean", channels), self.new(f"{name}.weight", channels, about=1.0)
        bias, var = self.new(f"{name}.bias", channels), self.new(f"{name}.running_var", channels).square_().add_(0.5)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)
        self.params += 2 * channels
        return (x - _c(mean)) / (_c(var) + 1e-5).sqrt() * _c(weight) + _c(bias)

    def head(self, name: str, x: Tensor, classes: int) -> Tensor:
        x = x.mean((2, 3))
        self.params += (x.shape[1] + 1) * classes
        self.macs += x.shape[1] * classes
        weight = self.new(f"{name}.weight", classes, x.shape[1], scale=x.shape[1] ** -0.5)
        return x @ weight.T + self.new(f"{name}.bias", classes)


def _c(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1)


def resnet(n: Formula, x: Tensor, depth: int, widths: tuple[int, ...], classes: int) -> Tensor:
    x = F.relu(n.bn("bn1", n.conv("conv1", x, widths[0], 3)))
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = F.relu(n.bn(f"{at}.bn1", n.conv(f"{at}.conv1", x, widths[stage], 3, stride)))
            out = n.bn(f"{at}.bn2", n.conv(f"{at}.conv2", out, widths[stage], 3))
            if x.shape != out.shape:
                x = n.bn(f"{at}.downsample.1", n.conv(f"{at}.downsample.0", x, widths[stage], 1, stride))
            x = F.relu(out + x)
    return n.head("fc", x, classes)


def resnet50(n: Formula, x: Tensor, classes: int) -> Tensor:
    x = F.relu(n.bn("bn1", n.conv("conv1", x, 64, 3)))
    for stage, (count, width) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512)), 1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = F.relu(n.bn(f"{at}.bn1", n.conv(f"{at}.conv1", x, width, 1)))
            out = F.relu(n.bn(f"{at}.bn2", n.conv(f"{at}.conv2", out, width, 3, stride)))
            out = n.bn(f"{at}.bn3", n.conv(f"{at}.conv3", out, 4 * width, 1))
            if x.shape != out.shape:
                x = n.bn(f"{at}.shortcut.1", n.conv(f"{at}.shortcut.0", x, 4 * width, 1, stride))
            x = F.relu(out + x)
    return n.head("linear", x, classes)


def wrn(n: Formula, x: Tensor, depth: int, width: int, classes: int) -> Tensor:
    x = n.conv("conv1", x, 16, 3)
    for stage in (1, 2, 3):
        out = width * 2 ** (stage + 3)
        for block in range((depth - 4) // 6):
            at, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            active = F.relu(n.bn(f"{at}.bn1", x))
            y = n.conv(f"{at}.conv1", active, out, 3, stride)
            y = n.conv(f"{at}.conv2", F.relu(n.bn(f"{at}.bn2", y)), out, 3)
            x = y + (x if x.shape[1] == out else n.conv(f"{at}.convShortcut", active, out, 1, stride))
    return n.head("fc", F.relu(n.bn("bn1", x)), classes)


def vgg(n: Formula, x: Tensor, count: int, classes: int) -> Tensor:
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        for layer in range(count):
            x = n.conv(f"block{stage}.{3 * layer}", x, width, 3, bias=True)
            x = F.relu(n.bn(f"block{stage}.{3 * layer + 1}", x))
        if stage < 3:
            x = F.max_pool2d(x, 2)
    return n.head("classifier", x, classes)


def mobilenetv2(n: Formula, x: Tensor, classes: int) -> Tensor:
    x = F.relu(n.bn("conv1.1", n.conv("conv1.0", x, 16, 3, 2)))
    table = ((1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1))
    for group, (factor, out, count, stride) in enumerate(table):
        for block in range(count):
            at, wide, step = f"blocks.{group}.{block}.conv", x.shape[1] * factor, 1 if block else stride
            y = F.relu(n.bn(f"{at}.1", n.conv(f"{at}.0", x, wide, 1)))
            y = F.relu(n.bn(f"{at}.4", n.conv(f"{at}.3", y, wide, 3, step, groups=wide)))
            y = n.bn(f"{at}.7", n.conv(f"{at}.6", y, out, 1))
            x = x + y if x.shape == y.shape else y
    return n.head("classifier.0", F.relu(n.bn("conv2.1", n.conv("conv2.0", x, 1280, 1))), classes)


def _shuffled(x: Tensor, groups: int) -> Tensor:
    return torch.cat([x[:, start :: x.shape[1] // groups] for start in range(x.shape[1] // groups)], 1)


def shufflenetv1(n: Formula, x: Tensor, classes: int) -> Tensor:
    x = F.relu(n.bn("bn1", n.conv("conv1", x, 24, 1)))
    for stage, (width, count) in enumerate(((240, 4), (480, 8), (960, 4)), 1):
        for block in range(count):
            at, stride = f"layer{stage}.{block}", 1 if block else 2
            out = width if block else width - x.shape[1]
            groups = 1 if x.shape[1] == 24 else 3
            y = F.relu(n.bn(f"{at}.bn1", n.conv(f"{at}.conv1", x, out // 4, 1, groups=groups)))
            y = n.conv(f"{at}.conv2", _shuffled(y, groups), out // 4, 3, stride, groups=out // 4)
            y = n.bn(f"{at}.bn3", n.conv(f"{at}.conv3", F.relu(n.bn(f"{at}.bn2", y)), out, 1, groups=3))
            x = F.relu(x + y) if block else F.relu(torch.cat([y, F.avg_pool2d(x, 3, 2, 1)], 1))
    return n.head("linear", x, classes)


def shufflenetv2(n: Formula, x: Tensor, classes: int) -> Tensor:
    def conv(at: str, number: int, x: Tensor, out: int, k: int = 1, stride: int = 1) -> Tensor:
        groups = out if k == 3 else 1
        return n.bn(f"{at}.bn{number}", n.conv(f"{at}.conv{number}", x, out, k, stride, groups=groups))

    x = F.relu(n.bn("bn1", n.conv("conv1", x, 24, 1)))
    for stage, (width, count) in enumerate(((116, 4), (232, 8), (464, 4)), 1):
        at, half = f"layer{stage}.0", width // 2
        left = F.relu(conv(at, 2, conv(at, 1, x, x.shape[1], 3, 2), half))
        right = F.relu(conv(at, 5, conv(at, 4, F.relu(conv(at, 3, x, half)), half, 3, 2), half))
        x = _shuffled(torch.cat([left, right], 1), 2)
        for block in range(1, count):
            at, kept, y = f"layer{stage}.{block}", x[:, :half], x[:, half:]
            y = conv(at, 2, F.relu(conv(at, 1, y, half)), half, 3)
            x = _shuffled(torch.cat([kept, F.relu(conv(at, 3, y, half))], 1), 2)
    return n.head("linear", F.relu(n.bn("bn2", n.conv("conv2", x, 1024, 1))), classes)


SMALL, LARGE = (16, 16, 32, 64), (32, 64, 128, 256)
# Our name: the formula, its arguments, and the parameters in millions that the literature states for 100 classes.
NETS: dict[str, tuple[Callable[..., Tensor], tuple[object, ...], float]] = {
    "cifar_resnet8": (resnet, (8, SMALL), 0.08),
    "cifar_resnet14": (resnet, (14, SMALL), 0.18),
    "cifar_resnet20": (resnet, (20, SMALL), 0.28),
    "cifar_resnet32": (resnet, (32, SMALL), 0.47),
    "cifar_resnet44": (resnet, (44, SMALL), 0.67),
    "cifar_resnet56": (resnet, (56, SMALL), 0.86),
    "cifar_resnet110": (resnet, (110, SMALL), 1.74),
    "cifar_resnet8x4": (resnet, (8, LARGE), 1.23),
    "cifar_resnet32x4": (resnet, (32, LARGE), 7.43),
    "cifar_resnet50": (resnet50, (), 23.71),
    "cifar_wrn_16_1": (wrn, (16, 1), 0.18),
    "cifar_wrn_16_2": (wrn, (16, 2), 0.70),
    "cifar_wrn_40_1": (wrn, (40, 1), 0.57),
    "cifar_wrn_40_2": (wrn, (40, 2), 2.26),
    "cifar_vgg8": (vgg, (1,), 3.97),
    "cifar_vgg13": (vgg, (2,), 9.46),
    "cifar_mobilenetv2": (mobilenetv2, (), 0.81),
    "cifar_shufflenetv1": (shufflenetv1, (), 0.95),
    "cifar_shufflenetv2": (shufflenetv2, (), 1.36),
}

"""CIFAR-style ResNets of the literature, registered into timm under the prefix `cifar_`.

The graphs are those behind the names of the CRD benchmark's tables: a 3x3 stem, three stages of basic blocks (He et
al. 2016, section 4.2) with a 1x1 convolution where the shape changes. `x4` nets are four times as wide. `resnet50` is
the ImageNet net's four stages of bottlenecks behind the same small stem. Feature stages: the stem, then the stages.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdbench.vision.cifar.staged import StagedNet, conv_bn, normal_fan_out, register_nets

WIDTHS = (16, 16, 32, 64)
WIDTHS_X4 = (32, 64, 128, 256)


def _shortcut(in_chs: int, out_chs: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 and in_chs == out_chs else conv_bn(in_chs, out_chs, 1, stride)


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, then ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_chs, out_chs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.act2(out + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, four times fewer channels between; shortcut, then ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        inner = out_chs // 4
        self.conv1 = nn.Conv2d(in_chs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, out_chs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chs)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_chs, out_chs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.act3(out + self.downsample(x))


class ResidualNet(StagedNet):
    """A stem of `widths[0]` channels; stages of `counts` blocks of `widths[1:]` channels, halving after the first."""

    def __init__(
        self,
        block: type[nn.Module],
        counts: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__(num_classes, global_pool, drop_rate, unknown)
        if len(widths) != len(counts) + 1:
            raise ValueError(f"widths must be {len(counts) + 1} numbers")
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        names = [f"layer{number}" for number in range(1, len(counts) + 1)]
        for stage, name in enumerate(names, 1):
            stride = 1 if stage == 1 else 2
            blocks = [block(widths[stage - 1], widths[stage], stride)]
            blocks += [block(widths[stage], widths[stage], 1) for _ in range(counts[stage - 1] - 1)]
            self.add_module(name, nn.Sequential(*blocks))
        stages = [("conv1", "bn1", "act1"), *((name,) for name in names)]
        self.finish(stages, widths, [1, *(2**number for number in range(len(counts)))])
        normal_fan_out(self)


class CifarResNet(ResidualNet):
    """`depth` = 6n + 2 layers: n basic blocks in each of three stages of `widths[1:]` channels after a stem."""

    def __init__(self, depth: int = 20, widths: Sequence[int] = WIDTHS, **options: Any) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError("depth must be 6n + 2")
        super().__init__(BasicBlock, [(depth - 2) // 6] * 3, widths, **options)


class CifarResNet50(ResidualNet):
    """3, 4, 6 and 3 bottlenecks."""

    def __init__(self, widths: Sequence[int] = (64, 256, 512, 1024, 2048), **options: Any) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), widths, **options)


_NETS: dict[str, dict[str, Any]] = {f"cifar_resnet{depth}": {"depth": depth} for depth in (8, 14, 20, 32, 44, 56, 110)}
_NETS |= {f"cifar_resnet{depth}x4": {"depth": depth, "widths": WIDTHS_X4} for depth in (8, 32)}
register_nets(__name__, CifarResNet, _NETS)
register_nets(__name__, CifarResNet50, {"cifar_resnet50": {}}, pool_size=(4, 4))

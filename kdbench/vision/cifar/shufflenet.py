"""ShuffleNets as the CRD benchmark builds them for 32 x 32 pictures: a 1x1 stem of 24 channels, no max-pooling.

V1: Zhang et al. 2018 (https://arxiv.org/abs/1707.01083), three groups. V2: Ma et al. 2018
(https://arxiv.org/abs/1807.11164), one times the width. Feature stages: the stem, then the three stages.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.vision.cifar.staged import StagedNet, conv_bn, register_nets


def shuffle(x: Tensor, groups: int) -> Tensor:
    """[B, C, H, W]: channel i of group g goes to place i * groups + g."""
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).reshape(x.shape)


class UnitV1(nn.Module):
    """1x1 in groups, shuffle, 3x3 per channel, 1x1 in groups; plus the input, or beside its half-size average."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.halves = stride == 2
        made = out_chs - in_chs if self.halves else out_chs
        inner, self.groups = made // 4, 1 if in_chs == 24 else groups  # the stem's 24 channels are not split
        self.conv1 = nn.Conv2d(in_chs, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(self.act1(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(self.act2(self.bn2(self.conv2(out)))))
        if self.halves:
            return self.act3(torch.cat([out, nn.functional.avg_pool2d(x, 3, 2, 1)], 1))
        return self.act3(out + x)


class UnitV2(nn.Module):
    """Half of the channels go through 1x1, 3x3 per channel, 1x1; the other half as they are; shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.act3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, 1)
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(out)))))
        # `kept` comes from a ReLU: a ReLU over both halves changes nothing there, and its input is the stage's map
        # before the activation.
        return shuffle(self.act3(torch.cat([kept, self.bn3(self.conv3(out))], 1)), 2)


class DownV2(nn.Module):
    """Both branches at half size: 3x3 per channel and 1x1; 1x1, 3x3 per channel and 1x1; shuffle."""

    def __init__(self, in_chs: int, out_chs: int) -> None:
        super().__init__()
        half = out_chs // 2
        sides = [(in_chs, in_chs, 3), (in_chs, half, 1), (in_chs, half, 1), (half, half, 3), (half, half, 1)]
        for number, (ins, outs, kernel) in enumerate(sides, 1):
            conv, norm = conv_bn(ins, outs, kernel, 2 if kernel == 3 else 1, groups=ins if kernel == 3 else 1)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)

    def _conv(self, number: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(x))

    def forward(self, x: Tensor) -> Tensor:
        left = self._conv(2, self._conv(1, x)).relu()
        right = self._conv(5, self._conv(4, self._conv(3, x).relu())).relu()
        return shuffle(torch.cat([left, right], 1), 2)


class CifarShuffleNet(StagedNet):
    """A 1x1 stem and three stages of `widths` channels and 4, 8, 4 units; subclasses say which units."""

    def __init__(
        self,
        widths: Sequence[int] = (),
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__(num_classes, global_pool, drop_rate, unknown)
        self.conv1 = nn.Conv2d(in_chans, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.act1 = nn.ReLU(inplace=True)
        chs = (24, *widths[:3])
        for stage, count in ((1, 4), (2, 8), (3, 4)):
            units = [self.unit(chs[stage - 1], chs[stage], halves=True)]
            units += [self.unit(chs[stage], chs[stage], halves=False) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*units))
        self.build_final(widths)
        stages = [("conv1", "bn1", "act1"), ("layer1",), ("layer2",), ("layer3",)]
        self.finish(stages, (24, *widths), (1, 2, 4, 8))

    def unit(self, in_chs: int, out_chs: int, halves: bool) -> nn.Module:
        raise NotImplementedError

    def build_final(self, widths: Sequence[int]) -> None:
        """What stands between the last stage and the pooling: here nothing."""


class CifarShuffleNetV1(CifarShuffleNet):
    def __init__(self, widths: Sequence[int] = (240, 480, 960), **options: Any) -> None:
        super().__init__(widths, **options)

    def unit(self, in_chs: int, out_chs: int, halves: bool) -> nn.Module:
        return UnitV1(in_chs, out_chs, 2 if halves else 1, groups=3)


class CifarShuffleNetV2(CifarShuffleNet):
    final = ("conv2", "bn2", "act2")

    def __init__(self, widths: Sequence[int] = (116, 232, 464, 1024), **options: Any) -> None:
        super().__init__(widths, **options)

    def unit(self, in_chs: int, out_chs: int, halves: bool) -> nn.Module:
        return DownV2(in_chs, out_chs) if halves else UnitV2(out_chs)

    def build_final(self, widths: Sequence[int]) -> None:
        self.conv2 = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2 = nn.BatchNorm2d(widths[3])
        self.act2 = nn.ReLU(inplace=True)

    def stage_ends(self) -> list[tuple[nn.Module, nn.Module | None]]:
        """No batch norm stands before a whole stage's map: half of it is older."""
        lasts: list[Any] = [self.get_submodule(f"layer{stage}")[-1] for stage in (1, 2, 3)]  # type: ignore[index]
        return [(self.act1, self.bn1), *((unit.act3, None) for unit in lasts)]


register_nets(__name__, CifarShuffleNetV1, {"cifar_shufflenetv1": {}}, pool_size=(4, 4))
register_nets(__name__, CifarShuffleNetV2, {"cifar_shufflenetv2": {}}, pool_size=(4, 4))

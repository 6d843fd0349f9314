"""The "MobileNetV2" of the CRD benchmark's tables: half width, expansion 6, a stem of stride 2, ReLU.

It differs from Sandler et al. 2018 (https://arxiv.org/abs/1801.04381): widths are not rounded to multiples of 8, the
second stage does not halve the map, the first block keeps its 1x1 expansion (of factor 1), ReLU is not capped at 6.
Feature stages: the stem, then the last blocks' outputs at 16, 8, 4 and 2 pixels (for 32): these end in a batch norm
without activation, so the map before the activation is the map.
"""

from typing import Any

from torch import Tensor, nn

from kdbench.vision.cifar.staged import StagedNet, conv_bn, normal_fan_out, register_nets

#         expansion, channels, blocks, stride
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 per channel, 1x1 projection without activation; plus the input where shapes agree."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_chs * expansion
        self.conv = nn.Sequential(
            *conv_bn(in_chs, wide, 1),
            nn.ReLU(inplace=True),
            *conv_bn(wide, wide, 3, stride, groups=wide),
            nn.ReLU(inplace=True),
            *conv_bn(wide, out_chs, 1),
        )
        self.adds = stride == 1 and in_chs == out_chs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class CifarMobileNetV2(StagedNet):
    """Seven groups of inverted residual blocks, `width` times as wide as the original's, then 1280 channels."""

    final = ("conv2",)

    def __init__(
        self,
        width: float = 0.5,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__(num_classes, global_pool, drop_rate, unknown)
        chs = int(32 * width)
        self.conv1 = nn.Sequential(*conv_bn(in_chans, chs, 3, 2), nn.ReLU(inplace=True))
        widths, groups = [chs], []
        for expansion, channels, count, stride in STAGES:
            blocks = []
            for place in range(count):
                blocks.append(InvertedResidual(chs, int(channels * width), 1 if place else stride, expansion))
                chs = int(channels * width)
            groups.append(nn.Sequential(*blocks))
            widths.append(chs)
        self.blocks = nn.ModuleList(groups)
        last = max(int(1280 * width), 1280)
        self.conv2 = nn.Sequential(*conv_bn(chs, last, 1), nn.ReLU(inplace=True))
        stages = [("conv1",), *(tuple(f"blocks.{i}" for i in part) for part in ((0, 1), (2,), (3, 4), (5, 6)))]
        self.finish(stages, [*(widths[i] for i in (0, 2, 3, 5, 7)), last], (2, 2, 4, 8, 16))
        normal_fan_out(self)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, 0, 0.01)
            nn.init.zeros_(self.fc.bias)

    def stage_ends(self) -> list[tuple[nn.Module, nn.Module]]:
        """The stem's ReLU; then what reads each stage's map, which has no activation of its own."""
        groups: list[Any] = list(self.blocks)
        readers = [groups[2], groups[3], groups[5], self.conv2]
        norms = [groups[place][-1].conv[-1] for place in (1, 2, 4, 6)]
        return [(self.conv1[2], self.conv1[1]), *zip(readers, norms, strict=True)]


register_nets(__name__, CifarMobileNetV2, {"cifar_mobilenetv2": {}}, first_conv="conv1.0", pool_size=(2, 2))

"""Wide ResNets (Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146): batch norm and ReLU come first.

Feature stages: the stem's convolution and the three blocks' sums, all before the next batch norm, as in the CRD
benchmark. The map before the activation is what that next batch norm makes of it.
"""

from typing import Any

from torch import Tensor, nn

from kdbench.vision.cifar.staged import StagedNet, normal_fan_out, register_nets


class PreActBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the input; where the width changes, plus a 1x1 convolution of the first ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_chs)
        self.act1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chs)
        self.act2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(in_chs, out_chs, 1, stride, bias=False) if in_chs != out_chs else None

    def forward(self, x: Tensor) -> Tensor:
        active = self.act1(self.bn1(x))
        out = self.conv2(self.act2(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(StagedNet):
    """`depth` = 6n + 4: n blocks in each of three stages of `width` times 16, 32, 64 channels."""

    final = ("bn1", "act1")

    def __init__(
        self,
        depth: int = 16,
        width: int = 1,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__(num_classes, global_pool, drop_rate, unknown)
        if depth < 10 or (depth - 4) % 6:
            raise ValueError("depth must be 6n + 4")
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        for stage in (1, 2, 3):
            blocks = [PreActBlock(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)]
            blocks += [PreActBlock(widths[stage], widths[stage], 1) for _ in range((depth - 4) // 6 - 1)]
            self.add_module(f"block{stage}", nn.Sequential(*blocks))
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.act1 = nn.ReLU(inplace=True)
        self.finish([("conv1",), ("block1",), ("block2",), ("block3",)], widths, (1, 1, 2, 4))
        normal_fan_out(self)
        if isinstance(self.fc, nn.Linear):
            nn.init.zeros_(self.fc.bias)

    def stage_ends(self) -> list[tuple[nn.Module, nn.Module]]:
        """The activation that follows every stage, and the batch norm between."""
        firsts: list[Any] = [self.get_submodule(f"block{stage}.0") for stage in (1, 2, 3)]
        return [(block.act1, block.bn1) for block in firsts] + [(self.act1, self.bn1)]


_SIZES = {"16_1": (16, 1), "16_2": (16, 2), "40_1": (40, 1), "40_2": (40, 2)}
_NETS: dict[str, dict[str, Any]] = {f"cifar_wrn_{k}": {"depth": d, "width": w} for k, (d, w) in _SIZES.items()}
register_nets(__name__, WideResNet, _NETS)

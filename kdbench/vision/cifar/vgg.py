"""VGG (Simonyan and Zisserman 2015) with batch norm and one linear layer, as the CRD benchmark builds it for CIFAR.

Feature stages: the five blocks' maps, each before the pooling that follows it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kdbench.vision.cifar.staged import StagedNet, normal_fan_out, register_nets

WIDTHS = (64, 128, 256, 512, 512)


class PoolLarge(nn.Module):
    """Halves maps of 8 x 8 and more: the fourth pooling is left out for pictures of 32 x 32."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 2) if x.shape[-1] >= 8 else x


class CifarVGG(StagedNet):
    """Five blocks of `counts` 3x3 convolutions with bias, batch norm and ReLU."""

    def __init__(
        self,
        counts: Sequence[int] = (1, 1, 1, 1, 1),
        widths: Sequence[int] = WIDTHS,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__(num_classes, global_pool, drop_rate, unknown)
        if len(counts) != 5 or len(widths) != 5:
            raise ValueError("counts and widths must be five numbers each")
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(in_chans, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                in_chans = width
            self.add_module(f"block{stage}", nn.Sequential(*layers))
        self.pool, self.pool_large = nn.MaxPool2d(2), PoolLarge()
        pooled = [("pool", f"block{stage}") for stage in (1, 2, 3)]
        self.finish([("block0",), *pooled, ("pool_large", "block4")], widths, (1, 2, 4, 8, 8))
        normal_fan_out(self)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, 0, 0.01)
            nn.init.zeros_(self.fc.bias)

    def stage_ends(self) -> list[tuple[nn.Module, nn.Module]]:
        """Every block's last ReLU and batch norm."""
        blocks: list[Any] = [self.get_submodule(f"block{stage}") for stage in range(5)]
        return [(block[-1], block[-2]) for block in blocks]


register_nets(
    __name__,
    CifarVGG,
    {"cifar_vgg8": {"counts": (1, 1, 1, 1, 1)}, "cifar_vgg13": {"counts": (2, 2, 2, 2, 2)}},
    first_conv="block0.0",
    pool_size=(4, 4),
)

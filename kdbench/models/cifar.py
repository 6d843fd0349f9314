"""CIFAR-style ResNets of the literature, registered into timm under the prefix `cifar_`.

The graphs are those behind the names of the CRD benchmark's tables: a 3x3 stem, three stages of basic blocks (He et
al. 2016, section 4.2) with a 1x1 convolution where the shape changes. `x4` nets are four times as wide. Feature
stages: the stem, then the three stages.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

WIDTHS = (16, 16, 32, 64)
WIDTHS_X4 = (32, 64, 128, 256)

_CFG = {
    "num_classes": 100, "input_size": (3, 32, 32), "pool_size": (8, 8), "interpolation": "bilinear",
    "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761), "first_conv": "conv1", "classifier": "fc",
}  # fmt: skip
DEPTHS = {8: WIDTHS, 14: WIDTHS, 20: WIDTHS, 32: WIDTHS, 44: WIDTHS, 56: WIDTHS, 110: WIDTHS}
default_cfgs = generate_default_cfgs(
    {f"cifar_resnet{name}": dict(_CFG) for name in [*map(str, DEPTHS), "8x4", "32x4"]}
)  # fmt: skip


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
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_chs != out_chs:
            self.downsample = nn.Sequential(nn.Conv2d(in_chs, out_chs, 1, stride, bias=False), nn.BatchNorm2d(out_chs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.act2(out + self.downsample(x))


class CifarResNet(nn.Module):
    """`depth` = 6n + 2 layers: n basic blocks in each of three stages of `widths[1:]` channels after a stem."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(
        self,
        depth: int = 20,
        widths: Sequence[int] = WIDTHS,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        **unknown: Any,
    ) -> None:
        super().__init__()
        unknown = {k: v for k, v in unknown.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay")}
        if unknown:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        if (depth - 2) % 6 or len(widths) != 4 or global_pool != "avg":
            raise ValueError("depth must be 6n + 2, widths four numbers, global_pool 'avg'")
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.act1 = nn.ReLU(inplace=True)
        self.feature_info = [{"num_chs": widths[0], "reduction": 1, "module": "act1"}]
        for stage in (1, 2, 3):
            stride = 1 if stage == 1 else 2
            blocks = [BasicBlock(widths[stage - 1], widths[stage], stride)]
            blocks += [BasicBlock(widths[stage], widths[stage], 1) for _ in range((depth - 2) // 6 - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            self.feature_info += [{"num_chs": widths[stage], "reduction": 2 ** (stage - 1), "module": f"layer{stage}"}]
        self.num_features = self.head_hidden_size = widths[3]
        self.fc: nn.Module = self._classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _classifier(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc = self._classifier(num_classes)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        if enable:
            raise ValueError("these nets are too small for gradient checkpointing")

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^conv1|bn1", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's interface: the stem's and the three stages' maps, [B, C, H, W] each, and the last one."""
        if output_fmt != "NCHW":
            raise ValueError("output_fmt must be 'NCHW'")
        take, last = feature_take_indices(4, indices)
        taken = []
        x = self.act1(self.bn1(self.conv1(x)))
        for place in range(4):
            if place:
                if stop_early and place > last:
                    break
                x = self.get_submodule(f"layer{place}")(x)
            if place in take:
                taken.append(x)
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take, last = feature_take_indices(4, indices)
        for stage in range(last + 1, 4):
            self.add_module(f"layer{stage}", nn.Identity())
        if prune_head:
            self.reset_classifier(0)
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        if self.drop_rate:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    feature_cfg = {"feature_cls": "getter", "out_indices": (0, 1, 2, 3)}
    return build_model_with_cfg(CifarResNet, variant, pretrained, feature_cfg=feature_cfg, **kwargs)


def _register(name: str, depth: int, widths: Sequence[int]) -> None:
    """timm takes a function named like the model, in a module that lists it."""

    def net(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
        return _create(name, pretrained, **{"depth": depth, "widths": widths, **kwargs})

    net.__name__ = name
    net.__module__ = __name__
    net.__doc__ = f"{name}: stem and stages of {tuple(widths)} channels."
    globals()[name] = register_model(net)


for _depth, _widths in DEPTHS.items():
    _register(f"cifar_resnet{_depth}", _depth, _widths)
_register("cifar_resnet8x4", 8, WIDTHS_X4)
_register("cifar_resnet32x4", 32, WIDTHS_X4)

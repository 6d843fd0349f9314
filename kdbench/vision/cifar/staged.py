"""What the literature's CIFAR nets share: stages run one after another, global average pooling, one linear classifier.

A subclass builds its modules, names those that make up each stage, and calls `finish`. timm's interface follows.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

CFG = {
    "num_classes": 100, "input_size": (3, 32, 32), "pool_size": (8, 8), "interpolation": "bilinear",
    "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761), "first_conv": "conv1", "classifier": "fc",
}  # fmt: skip
# How the CRD benchmark's public checkpoints (RepDistiller, mdistiller) name what is `fc`, `downsample`, `block1` here.
PUBLISHED_NAMES = (
    (r"^(?:linear|classifier(?:\.0)?)\.(weight|bias)$", r"fc.\1"),
    (r"\.shortcut\.(\d)", r".downsample.\1"),
    (r"^block(\d)\.layer\.", r"block\1."),
    (r"\.convShortcut\.", ".shortcut."),
)


def conv_bn(in_chs: int, out_chs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution with padding and batch norm."""
    conv = nn.Conv2d(in_chs, out_chs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_chs))


class StagedNet(nn.Module):
    """`stages`: the modules' names that make up each stage; `final`: those between the last stage and the pooling."""

    stages: Sequence[Sequence[str]]
    final: ClassVar[Sequence[str]] = ()

    def __init__(self, num_classes: int, global_pool: str, drop_rate: float, unknown: dict[str, Any]) -> None:
        super().__init__()
        unknown = {k: v for k, v in unknown.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay")}
        if unknown:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        if global_pool != "avg":
            raise ValueError("global_pool must be 'avg'")
        self.num_classes, self.drop_rate, self.grad_checkpointing = num_classes, drop_rate, False

    def finish(self, stages: Sequence[Sequence[str]], widths: Sequence[int], reductions: Sequence[int]) -> None:
        """Say what the stages are and give; the last of `widths` (one more than stages if `final`) is pooled."""
        self.stages = [tuple(names) for names in stages]
        self.feature_info = [
            {"num_chs": width, "reduction": reduction, "module": names[-1]}
            for names, width, reduction in zip(self.stages, widths, reductions, strict=False)
        ]
        self.num_features = self.head_hidden_size = widths[-1]
        self.fc: nn.Module = self._classifier(self.num_classes)

    @staticmethod
    def published_name(name: str) -> str:
        """Our name of a weight in a published checkpoint."""
        for pattern, ours in PUBLISHED_NAMES:
            name = re.sub(pattern, ours, name)
        return name

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
        blocks = r"^(?:layer|block|blocks\.)(\d+)"
        return {"stem": r"^conv1|^bn1", "blocks": blocks if coarse else blocks + r"\.(\d+)"}

    def _run(self, names: Iterable[str], x: Tensor) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """timm's interface: the stages' maps, [B, C, H, W] each, and what is pooled."""
        if output_fmt != "NCHW":
            raise ValueError("output_fmt must be 'NCHW'")
        take, last = feature_take_indices(len(self.stages), indices)
        taken = []
        for place, names in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = self._run(names, x)
            if place in take:
                taken.append(x)
        return taken if intermediates_only else (self._run(self.final, x), taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take, last = feature_take_indices(len(self.stages), indices)
        for names in [*self.stages[last + 1 :], self.final if prune_norm else ()]:
            for name in names:
                self.set_submodule(name, nn.Identity())
        if prune_head:
            self.reset_classifier(0)
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        for names in self.stages:
            x = self._run(names, x)
        return self._run(self.final, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = x.mean((2, 3))
        if self.drop_rate:
            x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def normal_fan_out(net: nn.Module) -> None:
    """He et al. 2015: convolutions ~ N(0, 2 / (kernel area x output channels)); biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def register_nets(home: str, cls: type[StagedNet], nets: dict[str, dict[str, Any]], **cfg: Any) -> None:
    """Register `nets` (name -> arguments of `cls`) into timm as functions of the module `home`."""
    module: Any = sys.modules[home]
    cfgs = generate_default_cfgs({name: {**CFG, **cfg} for name in nets})
    module.default_cfgs = {**getattr(module, "default_cfgs", {}), **cfgs}
    for name, arguments in nets.items():
        setattr(module, name, register_model(_entry_point(home, name, cls, arguments)))


def _entry_point(home: str, name: str, cls: type[StagedNet], arguments: dict[str, Any]) -> Any:
    """timm takes a function named like the model, in a module that lists it."""

    def net(pretrained: bool = False, **kwargs: Any) -> StagedNet:
        feature_cfg = {"feature_cls": "getter"}
        return build_model_with_cfg(cls, name, pretrained, feature_cfg=feature_cfg, **{**arguments, **kwargs})

    net.__name__, net.__module__ = name, home
    net.__doc__ = f"{cls.__name__} with {arguments}."
    return net

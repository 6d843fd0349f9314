"""Taps: hooks that note a tensor as it flows by, and change nothing of the computation."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.method.contract import Inapplicable
from kdbench.parts import Tap


def over_whole_pictures(attention: tuple[Tensor, ...], num_pictures: int, net: str) -> tuple[Tensor, ...]:
    """Raises Inapplicable unless there are maps and each is [B, heads, queries, keys] (windows stand in the batch)."""
    if not attention:
        raise Inapplicable(f"needs attention maps; {net} has none that can be read")
    if any(len(a.shape) != 4 or len(a) != num_pictures for a in attention):
        raise Inapplicable(f"needs attention over whole pictures; {net} attends within windows")
    return attention


def as_maps(features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What modules gave, as maps [B, C, H, W]: tokens [B, L, D] of a square become one, those before it are left out.

    Raises Inapplicable for any other shape.
    """
    return tuple(map(_as_map, features))


def _as_map(x: Tensor) -> Tensor:
    if x.ndim == 4:
        return x
    if x.ndim != 3:
        raise Inapplicable(f"needs feature maps; one of `feature_modules` gives {list(x.shape)}")
    side = math.isqrt(x.shape[1])
    return x[:, x.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))


def tap_preacts(model: nn.Module) -> Tap:
    """The input of the last activation of every stage. Raises Inapplicable as `stage_ends` does."""
    modules = [activation for activation, _ in stage_ends(model)]
    for module in modules:
        if getattr(module, "inplace", False):  # it would overwrite what was noted; out of place gives the same bits
            module.inplace = False
    return Tap(modules)


def tap_stem(model: Any) -> Tap:
    """What the first layer of a transformer reads, [B, L, D]. Raises Inapplicable for nets of another build."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not hasattr(model, "patch_embed"):
        raise Inapplicable(f"needs layers that read sequences; {type(model).__name__} has none")
    return Tap([blocks[0]])


def last_norms(model: nn.Module) -> tuple[Tensor, ...]:
    """Weight and bias [2, C] of the batch norm before every stage's last activation. Raises Inapplicable without."""
    norms = [norm for _, norm in stage_ends(model)]
    if not all(isinstance(norm, nn.BatchNorm2d) for norm in norms):
        raise Inapplicable(f"needs a batch norm before each stage's last activation; {type(model).__name__} has none")
    return tuple(torch.stack([norm.weight, norm.bias]).detach() for norm in norms)


ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)


def stage_ends(model: Any) -> list[tuple[Any, Any]]:
    """The last activation of every stage and the batch norm before it.

    Found for nets whose stages end in act3 or act2 of a residual block or in an activation (ResNets). A net of another
    build may say so itself with a method `stage_ends()`. Raises Inapplicable for the rest.
    """
    if callable(getattr(model, "stage_ends", None)):  # (timm's MobileNetV3 has a list of that name)
        return model.stage_ends()
    info = getattr(model, "feature_info", None) or []
    names = [stage["module"] for stage in (info if isinstance(info, list) else info.info)]
    ends = [_end(model, name) for name in names]
    if not names or any(end is None for end in ends):
        raise Inapplicable(f"needs maps before the activation; {type(model).__name__}'s stages don't end in one")
    return [end for end in ends if end is not None]


def _end(model: nn.Module, name: str) -> tuple[Any, Any] | None:
    """act1 with the model's bn1 (a stem), or act3/act2 with bn3/bn2 of a stage's last block."""
    stage = model.get_submodule(name)
    if isinstance(stage, ACTIVATIONS):
        return stage, getattr(model, name.replace("act", "bn"), None)
    children = list(stage.children())
    last = children[-1] if isinstance(stage, nn.Sequential) and children else None
    for number in ("3", "2"):
        activation = getattr(last, f"act{number}", None)
        if isinstance(activation, ACTIVATIONS) and hasattr(last, "conv1"):
            return activation, getattr(last, f"bn{number}", None)
    return None

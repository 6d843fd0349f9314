"""Taps: hooks that note a tensor as it flows by, and change nothing of the computation."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdbench.method.contract import Inapplicable
from kdbench.nets import Tap


class AttentionTap(Tap):
    """What `read` makes of the queries, keys, values and masks that a transformer's fused attention is called with.

    The net's own computation is left as it is, so a net asked for its attention gives the same bits as one that is
    not: a cohort may not depend on what another member needs. Drop-out is left out of the maps.
    """

    def __init__(self, read: Callable[..., Tensor]) -> None:
        super().__init__([])
        self.read = read
        self.listener = AttentionListener([], read)

    def __enter__(self) -> "Tap":
        super().__enter__()
        self.listener = AttentionListener(self.seen, self.read)
        self.listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.__exit__(None, None, None)
        super().__exit__()


class AttentionListener(TorchFunctionMode):
    """Adds to `seen` what `read` makes of every call of the fused attention."""

    def __init__(self, seen: list[Tensor], read: Callable[..., Tensor]) -> None:
        super().__init__()
        self.seen, self.read = seen, read

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.seen.append(self.read(*args, **kwargs))
        return func(*args, **kwargs)


def attention_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(scale Q K^T + mask), with the arguments of `F.scaled_dot_product_attention`: [..., queries, keys]."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
    if attn_mask is not None:
        scores = scores + attn_mask if attn_mask.is_floating_point() else scores.masked_fill(~attn_mask, -torch.inf)
    return scores.softmax(-1)


def queries(query: Tensor, *_: Any, scale: float | None = None, **__: Any) -> Tensor:
    """The queries, scaled so that Q K^T / sqrt(d) is what goes into the softmax."""
    return query if scale is None else query * (scale * query.shape[-1] ** 0.5)


def keys(query: Tensor, key: Tensor, *_: Any, **__: Any) -> Tensor:
    return key


def values(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return value


# What a method may need of attention -> how it is read from a call of the fused attention.
ATTENTION: dict[str, Callable[..., Tensor]] = {
    "attention": attention_map,
    "queries": queries,
    "keys": keys,
    "values": values,
}


def over_whole_pictures(attention: tuple[Tensor, ...], num_pictures: int, net: str) -> tuple[Tensor, ...]:
    """Raises Inapplicable unless there are maps and each is [B, heads, queries, keys] (windows stand in the batch)."""
    if not attention:
        raise Inapplicable(f"needs attention maps; {net} has none that can be read")
    if any(len(a.shape) != 4 or len(a) != num_pictures for a in attention):
        raise Inapplicable(f"needs attention over whole pictures; {net} attends within windows")
    return attention


def tap_preacts(model: nn.Module) -> Tap:
    """The input of the last activation of every stage. Raises Inapplicable as `stage_ends` does."""
    modules = [activation for activation, _ in stage_ends(model)]
    for module in modules:
        if getattr(module, "inplace", False):  # it would overwrite what was noted; out of place gives the same bits
            module.inplace = False
    return Tap(modules)


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

"""Taps: hooks that note a tensor as it flows by, and change nothing of the computation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.method import Inapplicable


class Tap:
    """Notes the input of each of `modules` during `with tap:`, in the order of the forward."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.seen: list[Tensor] = []
        self.open = False
        for module in modules:
            module.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.open:
            self.seen.append(inputs[0])

    def __enter__(self) -> "Tap":
        self.seen, self.open = [], True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def all(self) -> tuple[Tensor, ...]:
        seen, self.seen = tuple(self.seen), []
        return seen

    def last(self) -> Tensor:
        return self.all()[-1]


class AttentionTap(Tap):
    """Attention maps [B, heads, N, N] of timm's attention, from queries and keys as they pass q_norm and k_norm.

    The block's own (fused) computation is left as it is, so a net asked for its attention gives the same bits as one
    that is not: a cohort may not depend on what another member needs.
    """

    def __init__(self, attentions: list[Any]) -> None:
        super().__init__([])
        self.query: Tensor | None = None
        for attention in attentions:
            attention.q_norm.register_forward_hook(self._note_query)
            attention.k_norm.register_forward_hook(self._with_scale(attention.scale))

    def _note_query(self, module: nn.Module, inputs: Any, query: Tensor) -> None:
        if self.open:
            self.query = query

    def _with_scale(self, scale: float) -> Callable[..., None]:
        def note_key(module: nn.Module, inputs: Any, key: Tensor) -> None:
            if self.open:
                assert self.query is not None
                self.seen.append(torch.softmax(scale * self.query @ key.transpose(-2, -1), dim=-1))

        return note_key


def tap_attention(model: nn.Module) -> Tap:
    """Raises Inapplicable for a net without standard attention."""
    found = [m for m in model.modules() if hasattr(m, "q_norm") and hasattr(m, "k_norm") and hasattr(m, "scale")]
    if not found:
        raise Inapplicable(f"needs attention maps; {type(model).__name__} has none that can be read")
    return AttentionTap(found)


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
    if hasattr(model, "stage_ends"):
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

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
    """Attention maps [B, heads, N, N] of timm's standard attention, from the queries and keys as they pass q_norm, k_norm.

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
    """The input of the last activation of every stage of `feature_info`.

    Raises Inapplicable when a stage does not end in an activation (transformers, pre-activation nets without a tap
    of their own: such a net may list its modules in `preact_modules()`).
    """
    if hasattr(model, "preact_modules"):
        return Tap(_not_in_place(model.preact_modules()))
    info: Any = getattr(model, "feature_info", None)
    names = [stage["module"] for stage in (info if isinstance(info, list) else getattr(info, "info", []))]
    modules = [_last_activation(model.get_submodule(name)) for name in names]
    if not names or any(m is None for m in modules):
        raise Inapplicable(f"needs maps before the activation; {type(model).__name__}'s stages don't end in one")
    return Tap(_not_in_place([m for m in modules if m is not None]))


ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.LeakyReLU)


def _last_activation(stage: nn.Module) -> nn.Module | None:
    """The activation that ends `stage`: the stage itself, or act3/act2/act of its last block (ResNets)."""
    if isinstance(stage, ACTIVATIONS):
        return stage
    children = list(stage.children())
    last = children[-1] if isinstance(stage, nn.Sequential) and children else None
    for name in ("act3", "act2"):
        activation = getattr(last, name, None)
        if isinstance(activation, ACTIVATIONS) and hasattr(last, "conv1"):
            return activation
    return None


def _not_in_place(modules: list[nn.Module]) -> list[nn.Module]:
    """An in-place activation would overwrite what was noted; out of place it computes the same bits."""
    for module in modules:
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    return modules

"""What a transformer's fused attention is called with, noted as it flows by, in any domain."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdbench.parts import Tap


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

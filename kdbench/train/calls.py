"""What a module is called with beside its first input: masks, keys and values of attention, settings."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

SAME = "its input"  # this argument is the first input once more: self-attention takes another path then
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Like:
    """A tensor of this kind."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')}"


def bound(forward: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The first input, and all others by name that are not what they are when left out. Raises TypeError."""
    signature = inspect.signature(forward)
    (_, first), *others = signature.bind(*given, **named).arguments.items()
    left_out = {name: parameter.default for name, parameter in signature.parameters.items()}
    return first, {n: v for n, v in others if isinstance(v, Tensor) or (v is not None and v != left_out[n])}


def is_known(x: Any, beside: Mapping[str, Any]) -> bool:
    """Can such a call be made once more from its description?"""
    plain = all(isinstance(v, Tensor | bool | int | float | str) for v in beside.values())
    return isinstance(x, Tensor) and x.ndim >= (3 if beside else 2) and plain


def batch_axis(module: nn.Module) -> int:
    return 0 if getattr(module, "batch_first", True) else 1  # nn.MultiheadAttention's


def is_mask(name: str) -> bool:
    return "mask" in name


def described(x: Tensor, beside: Mapping[str, Any], axis: int, count: int, dtype: torch.dtype) -> dict[str, Any]:
    """`beside` for a batch of `count` samples (or somewhat more): each tensor as SAME or Like, the first under ""."""
    batch = x.shape[axis]
    shapes = {name: list(v.shape) for name, v in beside.items() if isinstance(v, Tensor) and v is not x}
    axes = {name: _axis(name, shape, axis) for name, shape in shapes.items()}
    # A mask for each of several windows, which follow each other in the batch, stays whole.
    leads = [shape[place] for name, shape in shapes.items() if (place := axes[name]) is not None]
    count = _rounded_up(count, [lead for lead in leads if 1 < lead < batch and batch % lead == 0])
    for name, place in axes.items():
        if place is not None and shapes[name][place] % batch == 0:
            shapes[name][place] = shapes[name][place] // batch * count  # several heads' masks: a multiple of the batch
    first = list(x.shape)
    first[axis] = count
    made: dict[str, Any] = {"": Like(tuple(first), dtype)}
    for name, v in beside.items():
        if name in shapes:
            kind = dtype if v.is_floating_point() and not is_mask(name) else v.dtype
            made[name] = Like(tuple(shapes[name]), kind)
        else:
            made[name] = SAME if v is x else v
    return made


def _axis(name: str, shape: list[int], axis: int) -> int | None:
    """Where the batch is, if anywhere: a mask [L, S] is one for all samples, but a `key_padding_mask` is [B, S]."""
    if is_mask(name):
        return 0 if len(shape) > 2 or name == "key_padding_mask" else None
    return axis if len(shape) > 2 else None


def _rounded_up(count: int, steps: list[int]) -> int:
    step = math.lcm(*steps)
    return -(-count // step) * step


def made(beside: Mapping[str, Any], x: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """A call's other inputs from their description: random, and masks that hide every second place."""
    return {
        name: x if v is SAME else _random(v, is_mask(name), generator) if isinstance(v, Like) else v
        for name, v in beside.items()
        if name
    }


def _random(like: Like, mask: bool, generator: torch.Generator) -> Tensor:
    if mask or not like.dtype.is_floating_point:
        hidden = torch.arange(math.prod(like.shape)).reshape(like.shape) % like.shape[-1] % 2 == 1
        hide = torch.zeros(like.shape).masked_fill(hidden, -math.inf)
        return hide.to(like.dtype) if like.dtype.is_floating_point else hidden.to(like.dtype)
    return torch.randn(like.shape, generator=generator).bfloat16().to(like.dtype)


def turned(change: Change, x: Tensor, beside: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Every tensor of a call as `change` makes it; what was one tensor stays one."""
    new = {id(t): change(t) for t in (x, *beside.values()) if isinstance(t, Tensor)}
    return new[id(x)], {name: new[id(v)] if isinstance(v, Tensor) else v for name, v in beside.items()}


def returned(change: Change, out: Any) -> Any:
    """What a module gives, with `change` for its tensors: attention gives its weights too."""
    if isinstance(out, tuple):
        return tuple(returned(change, one) for one in out)
    return change(out) if isinstance(out, Tensor) else out


def words(beside: Mapping[str, Any]) -> str:
    return "".join(f", {name} {'is' if v is SAME else '='} {v}" for name, v in sorted(beside.items()) if name)

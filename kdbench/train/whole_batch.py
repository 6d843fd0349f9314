"""Batch norm over a batch whose parts lie in several processes: forward and backward equal those of one process.

Or over each of several parts by itself, whether they lie in one process or in several.

Ioffe and Szegedy 2015 (https://arxiv.org/abs/1502.03167), eq. 1-4 and their derivatives, with sums over all processes.
torch's own SyncBatchNorm does this on GPUs alone, and only where it stands in the net in the place of a batch norm.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from kdbench.batching import shares

Gather = Callable[[Tensor], Tensor]  # [M] of this process -> [size, M] of all


class BatchNorms(TorchFunctionMode):
    """Inside, `norm` stands in for every batch norm in train mode, whatever module calls it."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm and kwargs.get("training", len(args) > 5 and args[5]):
            return self.norm(Norm(*args, **kwargs))
        return function(*args, **kwargs)

    def norm(self, given: "Norm") -> Tensor:
        raise NotImplementedError


@dataclass
class Norm:
    """What `torch.nn.functional.batch_norm` is called with."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = True
    momentum: float = 0.1
    eps: float = 1e-5

    @torch.no_grad()
    def note(self, mean: Tensor, var: Tensor) -> None:
        """Let the running statistics follow; `var`: without bias."""
        if self.running_mean is not None and self.running_var is not None:
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(var.to(self.running_var.dtype), self.momentum)


class WholeBatchNorms(BatchNorms):
    """The statistics are those of the whole batch. `empty`: this process has no example of its own; what it computes
    stands for nothing.
    """

    def __init__(self, gather: Gather, empty: bool = False) -> None:
        super().__init__()
        self.gather, self.empty = gather, empty

    def norm(self, given: Norm) -> Tensor:
        x = given.input
        count = 0 if self.empty else x.numel() // x.shape[1]
        normed, mean, var, total = _Normed.apply(x, given.eps, count, self.gather)
        given.note(mean, var * total / (total - 1))
        if given.weight is not None:
            normed = normed * per_channel(given.weight, normed)
        return (normed if given.bias is None else normed + per_channel(given.bias, normed)).to(x.dtype)


class PartNorms(BatchNorms):
    """The statistics are those of each part, of so many examples as `sizes` says, by itself; the running ones follow
    their mean over the parts of all processes.
    """

    def __init__(self, sizes: Sequence[int], gather: Gather = lambda mine: mine[None]) -> None:
        super().__init__()
        self.sizes, self.gather = sizes, gather

    def norm(self, given: Norm) -> Tensor:
        each = len(given.input) // sum(self.sizes)  # of an example: windows, patches
        parts = given.input.split([each * size for size in self.sizes])
        if given.running_mean is not None:
            over = [d for d in range(given.input.ndim) if d != 1]
            own = [torch.cat(torch.var_mean(part.detach().float(), over)) for part in parts]
            var, mean = self.gather(torch.stack(own)).mean((0, 1)).chunk(2)
            given.note(mean, var)
        normed = [F.batch_norm(part, None, None, given.weight, given.bias, True, 0.0, given.eps) for part in parts]
        return torch.cat(normed)


class _Normed(torch.autograd.Function):
    """x [B, C, ...] of this process -> (x - mean) / sqrt(var + eps), mean [C], var [C] and how many values a channel
    has, [], of all processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, count: int, gather: Gather) -> tuple[Tensor, ...]:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        width = x.shape[1]
        var, mean = torch.var_mean(wide, [d for d in range(x.ndim) if d != 1], correction=0)
        means, variances, counts = gather(torch.cat([mean, var, mean.new_tensor([count])])).split([width] * 2 + [1], 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean).square())).sum(0) / total
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, mean, scale, total)
        ctx.gather, ctx.counts = gather, count > 0
        ctx.mark_non_differentiable(mean, var, total)
        return (wide - per_channel(mean, x)) * per_channel(scale, x), mean, var, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, scale, total = ctx.saved_tensors
        normed = (x.to(gradient.dtype) - per_channel(mean, x)) * per_channel(scale, x)
        over = [d for d in range(x.ndim) if d != 1]
        own = torch.cat([gradient.sum(over), (gradient * normed).sum(over)]) * ctx.counts
        straight, along = (ctx.gather(own).sum(0) / total).chunk(2)
        found = gradient - per_channel(straight, x) - normed * per_channel(along, x)
        return (found * per_channel(scale, x)).to(x.dtype), None, None, None


def per_channel(values: Tensor, x: Tensor) -> Tensor:
    """[C] -> [1, C, 1, ...], as `x` has it."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def parts_of(count: int, parts: int) -> list[int]:
    """The same for the parts that batch norms see. Raises ValueError where one would have less than two."""
    if count < 2 * parts:
        raise ValueError(f"norm_parts: a batch of {count} examples has not two for each of {parts} parts")
    return shares(count, parts)

"""Batch norm over a batch whose parts lie in several processes: forward and backward equal those of one process.

Ioffe and Szegedy 2015 (https://arxiv.org/abs/1502.03167), eq. 1-4 and their derivatives, with sums over all processes.
torch's own SyncBatchNorm does this on GPUs alone, and only where it stands in the net in the place of a batch norm.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

Gather = Callable[[Tensor], Tensor]  # [M] of this process -> [size, M] of all


class WholeBatchNorms(TorchFunctionMode):
    """Inside, every batch norm in train mode, whatever module calls it, uses the statistics of the whole batch.

    `empty`: this process has no example of its own; what it computes stands for nothing.
    """

    def __init__(self, gather: Gather, empty: bool = False) -> None:
        super().__init__()
        self.gather, self.empty = gather, empty

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm and kwargs.get("training", len(args) > 5 and args[5]):
            return self.norm(*args, **kwargs)
        return function(*args, **kwargs)

    def norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As `torch.nn.functional.batch_norm`, in train mode."""
        count = 0 if self.empty else input.numel() // input.shape[1]
        normed, mean, var, total = _Normed.apply(input, eps, count, self.gather)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_((var * total / (total - 1)).to(running_var.dtype), momentum)
        if weight is not None:
            normed = normed * per_channel(weight, normed)
        return (normed if bias is None else normed + per_channel(bias, normed)).to(input.dtype)


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

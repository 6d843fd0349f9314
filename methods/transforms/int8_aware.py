"""Quantisation-aware training: the net learns with the rounding of its weights and inputs to 8 bits in place."""

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench import Inapplicable, Reshape, register_transform
from kdbench.method.transform import Given, layers

Part = Annotated[float, Field(gt=0, le=1)]


class Range(nn.Module):
    """Rounds x to 256 steps of its range, whose ends follow those of the batches by a moving average.

    Gradients pass where x is inside the range (straight-through, Bengio et al. 2013, arXiv:1308.3432).
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, pace: float) -> None:
        super().__init__()
        self.pace = pace
        for name in ("low", "high", "seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_meta:
            return x  # shapes alone are asked for, and torch's kernel knows no such tensors
        x = x.float()
        if self.training:
            self.watch(x.detach())
        scale = ((self.high - self.low) / 255).clamp(min=1e-8)
        zero = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 255)
        return torch.where(self.seen > 0, rounded, x)

    @torch.no_grad()
    def watch(self, x: Tensor) -> None:
        """0 is in every range: padding has it."""
        pace = torch.where(self.seen > 0, self.pace, 1.0)
        self.low += pace * (x.min().clamp(max=0) - self.low)
        self.high += pace * (x.max().clamp(min=0) - self.high)
        self.seen.fill_(1)


def rounded(weight: Tensor) -> Tensor:
    """To -127..127 steps of each output channel's largest weight; a batch norm folded into it later changes nothing."""
    if weight.is_meta:
        return weight
    scale = (weight.detach().abs().flatten(1).amax(1) / 127).clamp(min=1e-12)
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale.float(), zero, 0, -127, 127)


class AwareConv2d(nn.Conv2d):
    range: Range

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(self.range(x), rounded(self.weight), self.bias)


class AwareLinear(nn.Linear):
    range: Range

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.range(x), rounded(self.weight), self.bias)


AWARE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: AwareConv2d, nn.Linear: AwareLinear}


@register_transform("int8_aware", paper="https://arxiv.org/abs/1712.05877", year=2018)
class Int8Aware(Reshape):
    """Inputs and weights of convolutions and dense layers are rounded to 8 bits in training, and the gradient goes
    straight through; the student is delivered in int8. With `kd` and others it is quantisation-aware distillation
    (Mishra & Marr 2018, arXiv:1711.05852; Polino et al. 2018, arXiv:1802.05668).

    Weights are rounded as in the file, by channel. Activations are not quite: `int8` finds their ranges anew, as least
    and greatest value on 512 training examples (a few percent to a fifth wider than the moving averages of training),
    and in the file sums and logits are rounded too. Scores are those of the file; curves are those of the net.

    `pace` of the moving average of ranges. The modules stay those of the net, so that features can be read off it:
    torchao's own preparation exports the graph, whose modules are lost, or knows dense layers alone.
    """

    files: ClassVar[tuple[tuple[str, dict[str, Any]], ...]] = (("int8", {}),)

    def __init__(self, pace: Part = 0.05) -> None:
        self.pace = pace

    def apply(self, model: nn.Module, given: Given) -> Any:
        """The record: the names of the layers."""
        names = [name for name, _ in layers(model, tuple(AWARE))]
        if not names and any(type(part) in AWARE.values() for part in model.modules()):
            raise Inapplicable(f"finds {type(model).__name__} rounding already")
        if not names:
            raise Inapplicable(f"finds no convolution or dense layer in {type(model).__name__}")
        self.rebuild(model, names, given)
        return names

    def rebuild(self, model: nn.Module, record: Any, given: Given) -> None:
        for name in record:
            layer = model.get_submodule(name)
            layer.__class__ = AWARE[type(layer)]
            layer.range = Range(self.pace).to(next(layer.parameters()).device)

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        plain = {aware: kind for kind, aware in AWARE.items()}
        for layer in [part for part in model.modules() if type(part) in plain]:
            layer.weight.copy_(rounded(layer.weight))  # type: ignore[operator, arg-type]
            del layer.range
            layer.__class__ = plain[type(layer)]

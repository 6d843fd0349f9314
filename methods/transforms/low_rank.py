"""Low rank: a convolution or linear layer becomes two thinner ones, by its singular values."""

from math import prod
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench import Inapplicable
from kdbench.method.transform import Given, Reshape, layers, register_transform, runs

Part = Annotated[float, Field(gt=0, lt=1)]


@register_transform("low_rank", paper="https://arxiv.org/abs/1412.6553", year=2014)
class LowRank(Reshape):
    """W [out, in k k] = U S V: a k x k convolution to r channels and a 1 x 1 one to `out`, for dense layers alike.

    `share`: each layer keeps this share of its weights; or `energy`: the smallest r that keeps this share of the sum of
    its squared singular values, where that saves weights. The classifier, grouped convolutions and layers that are too
    thin to save anything stay. The scheme with one k x k part is that of Zhang et al. 2015, arXiv:1505.06798.
    """

    def __init__(self, share: Part | None = None, energy: Part | None = None) -> None:
        if share is not None and energy is not None:
            raise ValueError("takes a share or an energy, not both")
        self.share, self.energy = (0.5 if share is None and energy is None else share), energy

    def apply(self, model: nn.Module, given: Given) -> Any:
        """The record: layer -> rank."""
        ranks = {}
        for name, layer in list(layers(model, (nn.Conv2d, nn.Linear))):
            if layer not in given.keep and getattr(layer, "groups", 1) == 1:
                rank = self.rank(layer.weight)  # type: ignore[arg-type]
                if 0 < rank < full_rank(layer.weight):  # type: ignore[arg-type]
                    ranks[name] = rank
        if not ranks:
            raise Inapplicable(f"finds no layer of {type(model).__name__} that two thinner ones would make smaller")
        for name, rank in ranks.items():
            replace(model, name, rank)
        runs(model, given)
        return ranks

    def rank(self, weight: Tensor) -> int:
        """0 where no rank saves weights."""
        rows, columns = len(weight), weight[0].numel()
        most = (rows * columns - 1) // (rows + columns)
        if self.energy is None:
            return min(most, int((self.share or 0.5) * rows * columns / (rows + columns)))
        if weight.is_meta:
            return most
        energies = torch.linalg.svdvals(weight.detach().flatten(1).double()).square().cumsum(0)
        rank = int((energies < self.energy * energies[-1]).sum()) + 1
        return rank if rank <= most else 0

    def rebuild(self, model: nn.Module, record: Any, given: Given) -> None:
        for name, rank in record.items():
            replace(model, name, rank)


def full_rank(weight: Tensor) -> int:
    return min(len(weight), prod(weight.shape[1:]))


def replace(model: nn.Module, name: str, rank: int) -> None:
    """The layer `name` by two of `rank` between them, whose product is nearest to it."""
    place, _, last = name.rpartition(".")
    parent = model.get_submodule(place)
    setattr(parent, last, factors(getattr(parent, last), rank))


@torch.no_grad()
def factors(layer: Any, rank: int) -> nn.Sequential:
    weight, has_bias = layer.weight, layer.bias is not None
    where: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    first: Any
    second: Any
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **where)
        second = nn.Linear(rank, layer.out_features, bias=has_bias, **where)
    else:
        how = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **how, **where)
        second = nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias, **where)
    u, s, v = torch.linalg.svd(weight.flatten(1).double(), full_matrices=False)
    root = s[:rank].sqrt()
    first.weight.copy_((root[:, None] * v[:rank]).view_as(first.weight))
    second.weight.copy_((u[:, :rank] * root).view_as(second.weight))
    if has_bias:
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second).train(layer.training)

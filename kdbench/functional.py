"""Mathematics that several methods share, each piece named once.

Shapes: B batch, K classes, D width of an embedding, C channels, N = H*W positions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_kl(student: Tensor, teacher: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """KL(softmax(teacher/T) || softmax(student/T)) of each row, logits [B, K] -> [B]; without the factor T^2."""
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def unit(x: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """x divided by its Euclidean norm along `dim` (0 where x is 0)."""
    return F.normalize(x, dim=dim, eps=eps)


def gram(x: Tensor) -> Tensor:
    """Inner products of the rows, [..., B, D] -> [..., B, B]."""
    return x @ x.transpose(-1, -2)


def distances(x: Tensor, squared: bool = False) -> Tensor:
    """Euclidean distances between the rows, [B, D] -> [B, B], with a diagonal of exactly 0 and a finite gradient.

    A matrix product, not broadcast pairs. Rows are centred first: that changes no distance and keeps the digits that
    |a|^2 + |b|^2 - 2ab would cancel when the rows share a large mean.
    """
    products = gram(x - x.mean(0, keepdim=True))
    norms = products.diagonal()
    square = (norms[:, None] + norms[None, :] - 2 * products).clamp(min=1e-12)
    off_diagonal = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
    return (square if squared else square.sqrt()) * off_diagonal


def mean_off_diagonal(x: Tensor) -> Tensor:
    """Mean of a [B, B] matrix with a zero diagonal over its other entries (0 for B = 1)."""
    return x.sum() / max(x.shape[0] * (x.shape[0] - 1), 1)


def pool_to_smaller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps [B, C, H, W] with the larger average-pooled to the grid of the smaller."""
    grid = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    return to_grid(a, grid), to_grid(b, grid)


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] average-pooled to `grid` = (H', W'); untouched where it fits already."""
    return x if x.shape[-2:] == grid else F.adaptive_avg_pool2d(x, grid)


def standardise(logits: Tensor, population: bool = False, eps: float = 1e-7) -> Tensor:
    """(x - mean_k x) / (eps + std_k x) for each row of [B, K]; the sample's standard deviation, or the population's."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (eps + logits.std(-1, keepdim=True, correction=0 if population else 1))

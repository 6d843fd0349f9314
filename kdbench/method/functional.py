"""Mathematics that several methods share, each piece named once.

Shapes: B batch, K classes, D width of an embedding, C channels, N = H*W positions.
"""

import math

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


def rows(x: Tensor) -> Tensor:
    """[B, ...] -> [B, D] in the order in which it lies in memory, for what does not depend on it: inner products."""
    return x.flatten(1) if x.is_contiguous() else x.movedim(1, -1).flatten(1)


def distances(x: Tensor, squared: bool = False) -> Tensor:
    """Euclidean distances between the rows, [B, D] -> [B, B], with a diagonal of exactly 0 and a finite gradient.

    A matrix product, not broadcast pairs. Rows are centred first: that changes no distance and keeps the digits that
    |a|^2 + |b|^2 - 2ab would cancel when the rows share a large mean.
    """
    square = _squares(gram(x - x.mean(0)))
    return square if squared else off_diagonal(square.clamp(min=1e-12).sqrt())


def products_and_squares(x: Tensor) -> tuple[Tensor, Tensor]:
    """`gram(x)` and `distances(x, squared=True)` of [B, D] for one product of that size."""
    mean = x.mean(0)
    centred = x - mean
    products = gram(centred)
    along = centred @ mean
    return products + along + along[:, None] + mean @ mean, _squares(products)


def _squares(products: Tensor) -> Tensor:
    """Inner products of centred rows, [B, B] -> squared distances between them."""
    norms = products.diagonal()
    return off_diagonal((norms[:, None] + norms - 2 * products).clamp(min=1e-12))


def off_diagonal(x: Tensor) -> Tensor:
    """[B, B] with a diagonal of exactly 0."""
    return x * ~torch.eye(len(x), dtype=torch.bool, device=x.device)


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


def mean_at(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of [B, ..., L] over all that does not lie at places which `mask` [B, L] hides; None hides nothing."""
    if mask is None:
        return x.mean()
    shown = mask.reshape(len(mask), *[1] * (x.ndim - 2), -1).expand_as(x)
    return x.masked_fill(~shown, 0).sum() / shown.sum()


def mse_between(a: Tensor, b: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (a - b)^2, each [B, ..., L, L], over pairs of places of which `mask` [B, L] hides neither."""
    if mask is None:
        return F.mse_loss(a, b)
    return mean_at((a - b).square().flatten(-2), (mask[:, :, None] & mask[:, None, :]).flatten(1))


def places_of(x: Tensor) -> Tensor:
    """A map [B, C, H, W] as a sequence of its places [B, H*W, C]; a sequence as it is."""
    return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def standardise(logits: Tensor, population: bool = False, eps: float = 1e-7) -> Tensor:
    """(x - mean_k x) / (eps + std_k x) for each row of [B, K]; the sample's standard deviation, or the population's."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (eps + logits.std(-1, keepdim=True, correction=0 if population else 1))


def is_class(target: Tensor, num_classes: int) -> Tensor:
    """One-hot as a mask, [B] -> [B, K]."""
    return target[:, None] == torch.arange(num_classes, device=target.device)


def log_softmax_over(logits: Tensor, kept: Tensor) -> Tensor:
    """Log of the softmax over the classes of the mask `kept` [B, K]; 0 for the others, which then add nothing."""
    lowest = torch.finfo(logits.dtype).min  # not -inf: a row that keeps no class must stay finite
    return logits.masked_fill(~kept, lowest).log_softmax(-1).masked_fill(~kept, 0)


def soft_kl_over(student: Tensor, teacher: Tensor, kept: Tensor, temperature: float) -> Tensor:
    """As `soft_kl`, with both softmaxes over the classes of the mask `kept` [B, K]; 0 for a row that keeps none."""
    log_q = log_softmax_over(student / temperature, kept)
    log_p = log_softmax_over(teacher / temperature, kept)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def log_odds(logits: Tensor, chosen: Tensor) -> Tensor:
    """log(p / (1 - p)) with p the probability of class `chosen` [B] of each row; exact where p is next to 0 or 1."""
    own = logits.gather(-1, chosen[:, None]).squeeze(-1)
    return own - logits.masked_fill(is_class(chosen, logits.shape[-1]), -torch.inf).logsumexp(-1)


def binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of two-way choices given by their log odds, [B] -> [B]."""
    yes = F.logsigmoid(teacher) - F.logsigmoid(student)
    no = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    return teacher.sigmoid() * yes + (-teacher).sigmoid() * no


def decoupled_kl(student: Tensor, teacher: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """DKD's two parts of each row's KL: target class against the rest, and among the other classes; without T^2."""
    of_target = binary_kl(log_odds(student / temperature, target), log_odds(teacher / temperature, target))
    others = ~is_class(target, student.shape[-1])
    return of_target, soft_kl_over(student, teacher, others, temperature)


def normalised_ce(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, gamma: float, unmasked: bool = False
) -> Tensor:
    """NKD of each row: the teacher's target probability times -log q_y, and gamma T^2 times a cross-entropy.

    That one runs over the softmaxes of the other classes; `unmasked`: of all classes.
    """
    hot = is_class(target, student.shape[-1])
    of_target = -(teacher.softmax(-1) * student.log_softmax(-1) * hot).sum(-1)
    kept = torch.ones_like(hot) if unmasked else ~hot
    p = log_softmax_over(teacher / temperature, kept).exp()
    of_others = -(p * log_softmax_over(student / temperature, kept)).sum(-1)
    return of_target + gamma * temperature**2 * of_others


def class_maps(features: Tensor, classifier: tuple[Tensor, Tensor], grid: int) -> Tensor:
    """The classifier at every place of a map [B, D, H, W] pooled to `grid` x `grid`: [B, K, grid, grid].

    With `grid` = 1 these are the logits of a net that averages this map for its classifier.
    """
    weight, bias = classifier
    return F.conv2d(to_grid(features, (grid, grid)), weight[:, :, None, None], bias)


def warm_up(progress: Tensor, share: float) -> Tensor | float:
    """0 -> 1 in a line over the first `share` of the training; `progress` []."""
    return (progress / share).clamp(max=1.0).float() if share else 1.0


def cosine_decay(progress: Tensor, start: float) -> Tensor:
    """1 until `start`, then half a cosine down to 0 at the end of the training; `progress` []."""
    done = ((progress - start) / max(1 - start, 1e-12)).clamp(0, 1)
    return ((1 + torch.cos(math.pi * done)) / 2).float()

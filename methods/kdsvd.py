"""Self-supervised distillation by singular value decomposition: how the main directions of stages relate."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, Stage
from kdbench.method.functional import gram, pool_to_smaller, unit
from kdbench.method.stages import pair_stages, same_channels


@register_method("kdsvd", needs="features", paper="https://arxiv.org/abs/1807.06819", year=2018, family="maps")
class KDSVD(Method):
    """Mean over B of sum (R_s - R_t)^2 over neighbouring stages, R = exp(-(v_i+1 - v_i)^2 / 8) of all entries.

    v: the first `k` right singular vectors of a stage's map times the teacher's singular values (unit over the k);
    each of the teacher's meets the student's (of the first k + 3) with the largest |cosine| (Lee et al., sections
    3.1-3.3). A singular vector's sign is arbitrary; here the sum of its components is made non-negative.
    `matrix: channels` (default, the CRD benchmark's code) decomposes [H*W, C] and needs equal channels; `rows`
    (mdistiller) decomposes [C*H, W], a different quantity. Weight 1 is mdistiller's, for `rows`; no table is published
    for `channels`.
    """

    def __init__(
        self, k: Count = 1, stages: tuple[Stage, ...] = (-3, -2, -1), matrix: Literal["channels", "rows"] = "channels"
    ) -> None:
        super().__init__()
        self.k, self.stages, self.matrix = k, stages, matrix

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        if len(self.pairs) < 2:
            raise Inapplicable("needs two stages or more: it compares how one leads to the next")
        if self.matrix == "channels":
            for s, t in self.pairs:
                same_channels(student.features[s], teacher.features[t])

    def directions(self, s_map: Tensor, t_map: Tensor) -> tuple[Tensor, Tensor]:  # -> [B, C or W, k] each
        if self.matrix == "channels":
            s_rows, t_rows = s_map.flatten(2).transpose(1, 2), t_map.flatten(2).transpose(1, 2)
        else:
            s_map, t_map = pool_to_smaller(s_map, t_map)
            s_rows, t_rows = s_map.flatten(1, 2), t_map.flatten(1, 2)
        v_t, values = right_vectors(t_rows, self.k)
        v_s, _ = right_vectors(s_rows, self.k + 3)
        cosines = (v_s.transpose(1, 2) @ v_t).detach()  # [B, k + 3, k]
        best = cosines.abs().argmax(1, keepdim=True)
        sign = torch.where(cosines.gather(1, best) < 0, -1.0, 1.0).to(v_s)
        v_s = v_s.gather(2, best.expand(-1, v_s.shape[1], -1)) * sign
        weights = unit(values)[:, None]
        return v_s * weights, v_t * weights

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        found = [self.directions(student.features[s], teacher.features[t]) for s, t in self.pairs]
        losses = []
        for (s, t), (s_next, t_next) in pairwise(found):
            losses.append((relation(s_next, s) - relation(t_next, t)).square().sum() / len(s))
        return {"kdsvd": torch.stack(losses).sum()}


def relation(a: Tensor, b: Tensor) -> Tensor:
    """[B, I, k], [B, J, k] -> [B, I, J, k] (k may be cut where a map has fewer directions)."""
    k = min(a.shape[2], b.shape[2])
    return torch.exp(-(a[:, :, None, :k] - b[:, None, :, :k]).square() / 8)


def right_vectors(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k right singular vectors [B, C, k] and singular values [B, k] of [B, N, C].

    The decomposition itself is outside autograd: its backward divides 0 by 0 where singular values coincide, and maps
    after a ReLU have many that are 0. A step to first order gives the same gradient for the k vectors that are used:
    dv_j = sum_i v_i <v_i, dG v_j> / (g_j - g_i) with G = X^T X. Near-equal g are damped: such vectors turn freely.
    """
    values, v = decompose(x.detach())
    top = v[:, :, :k]
    moved = x.transpose(1, 2) @ (x @ top)  # G v_j
    moved = moved - moved.detach()  # 0, with the gradient of G
    inside = v.transpose(1, 2) @ moved  # [B, r, k]
    g = values.square()
    scale = g[:, :1, None] + torch.finfo(g.dtype).tiny ** 0.5
    gap = (g[:, None, :k] - g[:, :, None]) / scale
    beyond = moved - v @ inside  # outside the rows of X, where G is 0
    turned = v @ (inside * damped(gap)) + beyond * damped(g[:, None, :k] / scale)
    vectors = top + turned / scale
    sign = torch.where(top.sum(1, keepdim=True) < 0, -1.0, 1.0).to(x)
    return vectors * sign, values[:, :k]


def decompose(x: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values [B, r], largest first, and right singular vectors [B, C, r] of [B, N, C], r = min(N, C).

    By the eigenvectors of the smaller Gram matrix, in half the time of an SVD of every map.
    """
    wide = x.shape[1] < x.shape[2]
    g, vectors = torch.linalg.eigh(gram(x if wide else x.transpose(1, 2)))
    values, vectors = g.flip(1).clamp(min=0).sqrt(), vectors.flip(2)
    if wide:  # X^T u is v times its singular value; what belongs to a value of 0 is rounding error, and stays about 0
        vectors = x.transpose(1, 2) @ vectors
        least = values[:, :1, None] * torch.finfo(x.dtype).eps ** 0.5 + torch.finfo(x.dtype).tiny
        vectors = vectors / vectors.norm(dim=1, keepdim=True).maximum(least)
    return values, vectors


def damped(x: Tensor) -> Tensor:
    """1 / x, but smoothly 0 at 0: below 1e-5 in single precision, below 2e-14 in double."""
    digits = torch.finfo(x.dtype).eps / torch.finfo(torch.float32).eps
    return x / (x.square() + 1e-10 * digits**2)

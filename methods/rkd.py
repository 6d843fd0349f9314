"""Relational knowledge distillation: distances and angles between the pictures of a batch."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative
from kdbench.method.functional import distances, gram, mean_off_diagonal


@register_method("rkd", needs="embedding", paper="https://arxiv.org/abs/1904.05068", year=2019, family="relations")
class RKD(Method):
    """`distance` * mean_ij H(D_s - D_t) + `angle` * mean_ijk H(A_s - A_t), H the smooth L1 loss (eq. 5 and 8).

    D: distances between embeddings over their mean off the diagonal. A_ijk: cosine of the angle at i between j and k.
    """

    def __init__(self, distance: NonNegative = 25.0, angle: NonNegative = 50.0) -> None:
        super().__init__()
        self.distance, self.angle = distance, angle

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = student.embedding, teacher.embedding
        assert s is not None
        assert t is not None
        losses = {}
        if self.distance:
            losses["rkd_distance"] = self.distance * F.smooth_l1_loss(relative(s), relative(t))
        if self.angle:
            losses["rkd_angle"] = self.angle * F.smooth_l1_loss(angles(s), angles(t))
        return losses


def relative(x: Tensor) -> Tensor:  # [B, D] -> [B, B]
    d = distances(x)
    return d / mean_off_diagonal(d).clamp(min=1e-12)


def angles(x: Tensor) -> Tensor:
    """[B, D] -> [B, B, B]: <e_ij, e_ik>, e_ij = unit(x_j - x_i); from inner products, without [B, B, D] differences."""
    x = x - x.mean(0, keepdim=True)
    g = gram(x)
    # <x_j - x_i, x_k - x_i> = g_jk - g_ij - g_ik + g_ii
    dots = g[None] - g[:, :, None] - g[:, None, :] + g.diagonal()[:, None, None]
    d = distances(x)
    inverse = (d > 2e-6) / d.clamp(min=1e-6)  # two equal pictures span no angle
    return dots * inverse[:, :, None] * inverse[:, None, :]

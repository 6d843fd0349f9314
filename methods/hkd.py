"""Heterogeneous knowledge distillation: similarities under two kernels, stage by stage."""

from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Stage
from kdbench.method.functional import products_and_squares, rows
from kdbench.method.stages import embeddings, pair_stages

EPS = 1e-6


@register_method(
    "hkd", needs=("features", "embedding"), paper="https://arxiv.org/abs/2005.00727", year=2020, family="relations"
)
class HKD(Method):
    """Sum over stages of w_i J_i, J = sum over two kernels of mean_ij (P - Q)(log P - log Q).

    Rows of P (teacher) and Q (student) are kernel values over their sum; kernels: (cosine + 1)/2 and 1/(1 + distance)
    (Passalis et al., section 3). `weights: code` (default, SemCKD's table: 1 CE + 1 KD, T = 4, + 1 of this): w = `init`
    for the first stage, 1 for the others; `decayed`: w_i = `init` * `decay`^i, as evidently meant. `on: embedding`
    compares the embeddings alone, unweighted. The authors first teach an auxiliary teacher of the student's shape (in
    SemCKD's table by PKT); give it as the teacher.
    """

    def __init__(
        self,
        init: NonNegative = 100.0,
        decay: NonNegative = 0.7,
        weights: Literal["code", "decayed"] = "code",
        stages: tuple[Stage, ...] = (-3, -2, -1),
        on: Literal["features", "embedding"] = "features",
    ) -> None:
        super().__init__()
        self.init, self.decay, self.weights, self.stages, self.on = init, decay, weights, stages, on

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        if self.on == "features":
            self.pairs = pair_stages(student.features, teacher.features, self.stages)

    def weight(self, place: int) -> float:
        if self.weights == "decayed":
            return self.init * self.decay**place
        return self.init if place == 0 else 1.0

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.on == "embedding":
            return {"hkd": divergence(*embeddings(student, teacher))}
        stages = [divergence(rows(student.features[s]), rows(teacher.features[t])) for s, t in self.pairs]
        return {"hkd": torch.stack([self.weight(i) * stage for i, stage in enumerate(stages)]).sum()}


def divergence(s: Tensor, t: Tensor) -> Tensor:
    """Rows [B, D_s] and [B, D_t] -> Jeffreys divergence of both kernels' distributions, a scalar."""
    q, p = kernels(s), kernels(t)  # [2, B, B]
    return ((p - q) * (p.log() - q.log())).mean((1, 2)).sum()


def kernels(x: Tensor) -> Tensor:  # [B, D] -> [2, B, B], rows sum to 1
    products, squares = products_and_squares(x)
    norms = products.diagonal().clamp(min=EPS**2).sqrt() + EPS
    cosines = products / norms / norms[:, None]
    similar = ((cosines + 1) / 2).clamp(min=EPS)  # opposite vectors would give log 0
    near = 1 / (1 + (squares + EPS).sqrt())
    both = torch.stack((similar, near))
    return both / both.sum(2, keepdim=True)

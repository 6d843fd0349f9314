"""Correlation congruence: how the pictures of a batch correlate."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, Positive
from kdbench.method.functional import gram, unit
from kdbench.method.stages import embeddings


@register_method("cc", needs="embedding", paper="https://arxiv.org/abs/1904.01802", year=2019, family="relations")
class CorrelationCongruence(Method):
    """`form: code` (default, the published tables', weight 0.02): d_b = |u_s - u_t| of two trained linear embeddings
    of width `dim`, mean over b of sum_i d_b,i d_{b+1},i.

    `form: paper`: MSE(R_s, R_t) with the Gaussian kernel exp(-gamma |x - y|^2) of unit rows, by its Taylor series
    exp(-2 gamma) sum_{p <= order} (2 gamma)^p / p! <x, y>^p (Peng et al., section 3.4). It has no trained part.
    """

    def __init__(
        self, dim: Count = 128, form: Literal["code", "paper"] = "code", gamma: Positive = 0.4, order: Count = 2
    ) -> None:
        super().__init__()
        self.dim, self.form, self.gamma, self.order = dim, form, gamma, order
        self.embed_s: nn.Module = nn.Identity()
        self.embed_t: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        s, t = embeddings(student, teacher)
        if self.form == "code":
            self.embed_s = nn.Linear(s.shape[1], self.dim)
            self.embed_t = nn.Linear(t.shape[1], self.dim)

    def kernel(self, x: Tensor) -> Tensor:  # [B, D] -> [B, B]
        products = gram(unit(x))
        series = torch.ones_like(products)
        for p in range(self.order, 0, -1):  # Horner: 1 + c/1 g (1 + c/2 g (...))
            series = 1 + 2 * self.gamma / p * products * series
        return math.exp(-2 * self.gamma) * series

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        if self.form == "paper":
            return {"cc": F.mse_loss(self.kernel(s), self.kernel(t))}
        delta = (self.embed_s(s) - self.embed_t(t)).abs()
        return {"cc": (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)}

"""Transformed teacher matching: only the teacher is softened."""

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Share
from kdbench.method.functional import soft_kl

PAPER = "https://arxiv.org/abs/2402.11148"


@register_method("ttm", needs="logits", paper=PAPER, year=2024, family="logits")
class TTM(Method):
    """mean_b KL(p || softmax(s)), p = softmax(t)^g / sum_k softmax(t)^g, g the `exponent` (Zheng and Yang, section 3).

    g = 1/T, on the teacher's side alone, and no factor T^2. Weight for vgg13 -> vgg8: 45 beside 1 CE, g = 0.1.
    """

    def __init__(self, exponent: Share = 0.1) -> None:
        super().__init__()
        self.exponent = exponent

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        return soft_kl(student, self.exponent * teacher)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {self.name: self.rows(student.logits, teacher.logits).mean()}


@register_method("wttm", needs="logits", paper=PAPER, year=2024, family="logits")
class WTTM(TTM):
    """TTM with the KL of each picture times sum_k softmax(t)_k^g: more where the teacher is unsure (section 4).

    The one setting that the authors print is weight 4, g = 0.2, beside CRD.
    """

    def __init__(self, exponent: Share = 0.2) -> None:
        super().__init__(exponent)

    def rows(self, student: Tensor, teacher: Tensor) -> Tensor:
        power_sum = torch.logsumexp(self.exponent * teacher.log_softmax(-1), -1).exp()
        return power_sum * super().rows(student, teacher)

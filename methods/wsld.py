"""Weighted soft labels: less teaching where the student already does as well as the teacher."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive


@register_method("wsld", needs="logits", paper="https://arxiv.org/abs/2102.00650", year=2021, family="logits")
class WSLD(Method):
    """T^2 mean_b w_b (-sum_k p_k log q_k), w_b = 1 - exp(-CE_b(s) / CE_b(t)) without gradient (Zhou et al.).

    p, q: softmaxes at T; the teacher's entropy is not taken off. CE: with
    mixed labels where pictures are mixed. Weight 2.5 beside 1 CE.
    """

    def __init__(self, temperature: Positive = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s_loss, t_loss = (F.cross_entropy(x.logits, batch.labels, reduction="none") for x in (student, teacher))
        weight = (1 - (-s_loss / (t_loss + 1e-7)).exp()).detach()
        p = (teacher.logits / self.temperature).softmax(-1)
        soft = -(p * (student.logits / self.temperature).log_softmax(-1)).sum(-1)
        return {"wsld": self.temperature**2 * (weight * soft).mean()}

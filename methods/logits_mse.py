"""Regression of the teacher's logits, the oldest form of distillation for deep nets."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method


@register_method("logits_mse", needs="logits", paper="https://arxiv.org/abs/1312.6184", year=2014, family="logits")
class LogitsMSE(Method):
    """Mean over B*K of (s - t)^2 (Ba and Caruana): with centred logits the limit of KD for large T."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"logits_mse": F.mse_loss(student.logits, teacher.logits)}

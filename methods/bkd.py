"""Binary distillation: every class is a yes-no question."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method


@register_method("bkd", needs="logits", paper="https://arxiv.org/abs/2305.15781", year=2023, family="logits")
class BinaryKD(Method):
    """Mean over B*K of the binary cross-entropy of sigmoid(s) against softmax(t), as in the code of VanillaKD.

    It goes with students that are trained by binary cross-entropy. Weight there: 1. No temperature.
    """

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"bkd": F.binary_cross_entropy_with_logits(student.logits, teacher.logits.softmax(-1))}

"""DeiT: a token of its own learns from the teacher, beside the one that learns from the labels."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Positive
from kdbench.method.functional import soft_kl


@register_method(
    "deit",
    needs="logits",
    student_needs=("logits", "token_logits"),
    paper="https://arxiv.org/abs/2012.12877",
    year=2021,
    family="transformers",
)
class DeiT(Method):
    """CE(d, argmax t) + `label` * CE(c, y), d and c the logits of the distillation and the class token.

    With weight 0.5 and without `ce` this is the paper's hard distillation (Touvron et al., eq. 3; default). `soft`: T^2
    mean_b KL(softmax(t/T) || softmax(d/T)) instead (eq. 2; T = 3 there). The student is one of timm's distilled models
    (`deit_tiny_distilled_patch16_224`), evaluated by the mean of both heads.
    """

    def __init__(
        self,
        form: Literal["hard", "soft"] = "hard",
        temperature: Positive = 3.0,
        label: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.form, self.temperature, self.label = form, temperature, label

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        if student.token_logits is None:
            raise Inapplicable("needs a student with a distillation token; it has none")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert student.token_logits is not None
        token = student.token_logits
        own = 2 * student.logits - token  # the logits are the mean of both heads
        if self.form == "hard":
            loss = F.cross_entropy(token, teacher.logits.argmax(1))
        else:
            loss = self.temperature**2 * soft_kl(token, teacher.logits, self.temperature).mean()
        return {"deit_token": loss, "deit_class": self.label * F.cross_entropy(own, batch.labels)}

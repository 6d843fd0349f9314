"""Distillation as function matching: teacher and student see the same mixed-up view; its contrast, a fixed teacher."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive
from kdbench.method.functional import soft_kl

PAPER = "https://arxiv.org/abs/2106.05237"


@register_method("function_matching", needs="mixed", paper=PAPER, year=2022, family="structure")
class FunctionMatching(Method):
    """T^2 mean_b KL(softmax(t/T) || softmax(s/T)), both on the mixed-up view (Beyer et al. 2022).

    No labels and no other loss: weight 1. Pictures are mixed after augmentation with a share drawn evenly from 0..1,
    one for a batch. T = 1 (ImageNet); the paper takes 1, 2, 5 or 10 elsewhere, and many epochs.
    """

    def __init__(self, temperature: Positive = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        kl = soft_kl(student.views["mixed"].logits, teacher.views["mixed"].logits, self.temperature).mean()
        return {"function_matching": self.temperature**2 * kl}


@register_method("fixed_teacher", needs="plain", student_needs="logits", paper=PAPER, year=2022, family="structure")
class FixedTeacher(Method):
    """As function matching, but with a teacher that speaks once and for all of the plain picture.

    The student sees the augmented one (the paper's "fixed teacher", whose outputs could be computed beforehand).
    """

    def __init__(self, temperature: Positive = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        kl = soft_kl(student.logits, teacher.views["plain"].logits, self.temperature).mean()
        return {"fixed_teacher": self.temperature**2 * kl}

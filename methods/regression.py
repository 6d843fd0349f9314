"""Squared errors of a net that says one number: of the true one, and of its teacher's."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method


@register_method("mse", needs=(), family="labels", kinds="numbers")
class MSE(Method):
    """mean_b (s_b - y_b)^2, s_b the student's number, y_b the true one: what a student alone learns from."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"mse": F.mse_loss(student.logits[:, 0], batch.target)}


@register_method("teacher_mse", paper="https://arxiv.org/abs/1312.6184", year=2014, family="logits", kinds="numbers")
class TeacherMSE(Method):
    """mean_b (s_b - t_b)^2, t_b the teacher's number: Ba and Caruana's regression on logits, where there is one."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"teacher_mse": F.mse_loss(student.logits, teacher.logits)}


@register_method("bounded", paper="https://papers.nips.cc/paper/6676", year=2017, family="logits", kinds="numbers")
class Bounded(Method):
    """mean_b (s_b - y_b)^2 where it is above (t_b - y_b)^2 - margin, else 0: the teacher's error is good enough.

    Chen et al. 2017's teacher bounded regression loss (equation 5, L_b), of numbers in the place of boxes. It stands
    beside `mse`: there L_reg = L_sL1 + 0.5 L_b.
    """

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        error, bound = ((x.logits[:, 0] - batch.target).square() for x in (student, teacher))
        return {"bounded": (error * (error + self.margin > bound)).mean()}

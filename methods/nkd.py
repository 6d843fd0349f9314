"""Normalised knowledge distillation: soft labels without the target sum to one again."""

from typing import Literal

from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Positive, one_label
from kdbench.method.functional import normalised_ce


@register_method("nkd", needs="logits", paper="https://arxiv.org/abs/2303.13005", year=2023, family="logits")
class NKD(Method):
    """mean_b[-softmax(t)_y log softmax(s)_y - gamma T^2 sum_{k != y} P_k log Q_k] (Yang et al., section 3).

    P, Q: softmaxes at T over the classes other than the target. `form: unmasked` leaves the target in P and Q, a slip
    of several copies of the code (SD-NKD's table rests on it). Weight 1 beside 1 CE.
    """

    def __init__(
        self, gamma: NonNegative = 1.5, temperature: Positive = 1.0, form: Literal["paper", "unmasked"] = "paper"
    ) -> None:
        super().__init__()
        self.gamma, self.temperature, self.form = gamma, temperature, form

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "takes the target out of both softmaxes")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        rows = normalised_ce(
            student.logits, teacher.logits, batch.target, self.temperature, self.gamma, self.form == "unmasked"
        )
        return {"nkd": rows.mean()}

"""Distillation from a corrected teacher: its top class changes places with the label."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Positive, one_label
from kdbench.method.functional import soft_kl


@register_method("swap_kd", needs="logits", paper="https://arxiv.org/abs/1911.07471", year=2019, family="logits")
class SwapKD(Method):
    """KD after the teacher's largest logit and the label's logit are exchanged (Wen et al., "probability shift").

    Nothing changes where the teacher is right. A baseline of RLD: 0.1 CE + 0.9 of this, T = 4.
    """

    def __init__(self, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "exchanges the teacher's top class and the label")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        t, y = teacher.logits, batch.target[:, None]
        top, place = t.max(-1, keepdim=True)
        swapped = t.scatter(-1, place, t.gather(-1, y)).scatter(-1, y, top)
        return {"swap_kd": self.temperature**2 * soft_kl(student.logits, swapped, self.temperature).mean()}

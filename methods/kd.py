"""Knowledge distillation as Hinton, Vinyals and Dean defined it."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive
from kdbench.method.functional import soft_kl


@register_method("kd", needs="logits", paper="https://arxiv.org/abs/1503.02531", year=2015, family="logits")
class KD(Method):
    """T^2 mean_b KL(softmax(t/T) || softmax(s/T)) (section 2).

    The factor T^2 keeps the gradient's size when T changes. The CRD table uses T = 4 with 0.1 CE + 0.9 KD.
    """

    def __init__(self, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        kl = soft_kl(student.logits, teacher.logits, self.temperature).mean()
        return {"kd": self.temperature**2 * kl}

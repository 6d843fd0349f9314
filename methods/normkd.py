"""NormKD: each picture's own temperature, from the spread of its logits."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive
from kdbench.method.functional import soft_kl


@register_method("normkd", needs="logits", paper="https://arxiv.org/abs/2308.00520", year=2023, family="logits")
class NormKD(Method):
    """mean_b T_t^2 KL(softmax(t/T_t) || softmax(s/T_s)), T = `norm` * std_k of the picture's logits, on each side.

    The gradient also runs through T_s, as in the authors' code. CIFAR-100: 0.1 CE + 0.9 NormKD, norm 2.
    """

    def __init__(self, norm: Positive = 2.0) -> None:
        super().__init__()
        self.norm = norm

    def temperature(self, logits: Tensor) -> Tensor:  # [B, K] -> [B, 1]
        return (self.norm * logits.std(-1, keepdim=True)).clamp(min=1e-7)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        t_s, t_t = self.temperature(student.logits), self.temperature(teacher.logits)
        kl = soft_kl(student.logits / t_s, teacher.logits / t_t)
        return {"normkd": (t_t.squeeze(-1) ** 2 * kl).mean()}

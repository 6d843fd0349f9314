"""Refined logit distillation: what the teacher says against the label is left out."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Positive, Share, one_label
from kdbench.method.functional import binary_kl, log_odds, soft_kl_over, warm_up


@register_method("rld", needs="logits", paper="https://arxiv.org/abs/2408.07703", year=2024, family="logits")
class RLD(Method):
    """mean_b[alpha T_a^2 SCD + beta T^2 MCD] (Sun et al.), ramped up over the first `warmup` of training.

    SCD: binary KL from the teacher's largest probability to the student's probability of the label, both at
    T_a = `alpha_temperature`. MCD: KL over the classes that the teacher ranks below the label. Weight 1 beside 1 CE,
    warm-up 20 of 240 epochs.
    """

    def __init__(
        self,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        temperature: Positive = 4.0,
        alpha_temperature: Positive = 1.0,
        warmup: Share = 20 / 240,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.warmup = alpha, beta, warmup
        self.temperature, self.alpha_temperature = temperature, alpha_temperature

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "keeps the classes below the label")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t, y = student.logits, teacher.logits, batch.target
        confident = log_odds(t / self.alpha_temperature, t.argmax(-1))
        sample = binary_kl(log_odds(s / self.alpha_temperature, y), confident)
        masked = soft_kl_over(s, t, t < t.gather(-1, y[:, None]), self.temperature)
        scale = warm_up(batch.progress, self.warmup)
        return {
            "rld_sample": scale * self.alpha * self.alpha_temperature**2 * sample.mean(),
            "rld_masked": scale * self.beta * self.temperature**2 * masked.mean(),
        }

"""Teacher-free distillation: a hand-made teacher that is always right, and not too sure."""

from typing import Literal

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive, Share
from kdbench.method.functional import is_class


@register_method("tfkd", needs=(), paper="https://arxiv.org/abs/1909.11723", year=2020, family="labels")
class TeacherFreeKD(Method):
    """KL(v || softmax(s)) with v = softmax(u / T), u = `correct` on the label, the rest shared by the others.

    `form: code` (default, the published numbers'): mean over B*K and the student not tempered; `paper` (Yuan et al.):
    mean over B, student at T. The softmax of probabilities is the authors'. CIFAR-100: 0.9 CE + 0.1 * 100 of this, that
    is weight 10. Of pictures that are mixed, u is the mean of both labels' by their shares.
    """

    def __init__(
        self, temperature: Positive = 20.0, correct: Share = 0.99, form: Literal["code", "paper"] = "code"
    ) -> None:
        super().__init__()
        self.temperature, self.correct, self.form = temperature, correct, form

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s = student.logits
        hot = (is_class(batch.target, s.shape[-1]) if batch.soft is None else batch.soft).to(s.dtype)
        u = self.correct * hot + (1 - self.correct) / (s.shape[-1] - 1) * (1 - hot)
        log_v = (u / self.temperature).log_softmax(-1)
        log_q = (s if self.form == "code" else s / self.temperature).log_softmax(-1)
        kl = log_v.exp() * (log_v - log_q)
        return {"tfkd": kl.mean() if self.form == "code" else kl.sum(-1).mean()}

"""Decoupled knowledge distillation: the target's share and the others' order, each with a weight of its own."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive, Share
from kdbench.method.functional import decoupled_kl, warm_up


@register_method("dkd", needs="logits", paper="https://arxiv.org/abs/2203.08679", year=2022, family="logits")
class DKD(Method):
    """T^2 mean_b(alpha TCKD + beta NCKD) (Zhao et al., section 3), ramped up over the first `warmup` of training.

    TCKD: KL between the target's probability and the rest; NCKD: KL among the other classes. Weight 1 beside 1 CE;
    `beta` 8, but 2 for resnet56/110 and 6 for wide ResNets and vgg13; warm-up 20 of 240 epochs. `alpha` = 1 with
    `beta` = 1 - p_y per picture would be KD. The target of a mixed picture is the class of its larger share
    (as in OFA-KD's code).
    """

    def __init__(
        self,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        temperature: Positive = 4.0,
        warmup: Share = 20 / 240,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature, self.warmup = alpha, beta, temperature, warmup

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        target, others = decoupled_kl(student.logits, teacher.logits, batch.target, self.temperature)
        scale = self.temperature**2 * warm_up(batch.progress, self.warmup)
        return {"dkd_target": scale * self.alpha * target.mean(), "dkd_others": scale * self.beta * others.mean()}

"""CRLD: two views of a picture, each taught by the teacher's answer to the same view and to the other one."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive, Share
from kdbench.method.functional import soft_kl


@register_method(
    "crld", needs=("logits", "second"), paper="https://arxiv.org/abs/2412.16493", year=2024, family="logits"
)
class CRLD(Method):
    """`within` mean_b m_w [KD(s, t) + KD(s2, t2)] + `cross` mean_b m_s [KD(s2, t) + KD(s, t2)], s2, t2: second view.

    KD: T^2 KL per picture. m_w: the teacher's largest probability on the first view is at least `sure`; m_s: on the
    second, at least `sure_second` (Zhang et al.). The authors' second view has their RandAugment, ours the
    strong colour changes of `Batch.views`. CE on both views (`ce: 1, ce_second: 1`) beside CRLD at weight 1.
    """

    def __init__(
        self,
        temperature: Positive = 4.0,
        within: NonNegative = 2.0,
        cross: NonNegative = 0.5,
        sure: Share = 0.9,
        sure_second: Share = 0.2,
    ) -> None:
        super().__init__()
        self.temperature, self.within, self.cross = temperature, within, cross
        self.sure, self.sure_second = sure, sure_second

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        (s, s2), (t, t2) = ((x.logits, x.views["second"].logits) for x in (student, teacher))
        within = soft_kl(s, t, self.temperature) + soft_kl(s2, t2, self.temperature)
        cross = soft_kl(s2, t, self.temperature) + soft_kl(s, t2, self.temperature)
        scale = self.temperature**2
        return {
            "crld_within": scale * self.within * (within * is_sure(t, self.sure)).mean(),
            "crld_cross": scale * self.cross * (cross * is_sure(t2, self.sure_second)).mean(),
        }


def is_sure(logits: Tensor, least: float) -> Tensor:
    """Is the largest probability at least `least`? [B, K] -> [B]"""
    return logits.softmax(-1).amax(-1) >= least

"""TeKAP: noise on the teacher's logits makes several teachers of one."""

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Count, NonNegative, Positive, Share
from kdbench.method.functional import soft_kl


@register_method(
    "tekap", needs="logits", paper="https://openreview.net/forum?id=DmEHmZ89iB", year=2025, family="logits"
)
class TeKAP(Method):
    """T^2 mean_b [KL(t, s) + `share` sum_i KL(t_i, s)], t_i = (1 - `noise`) t + `noise` e_i, e_i standard normal.

    KL(t, s) is that of KD. `views` augmented teachers are drawn anew for every batch (Hossain et al., at the
    logit level; the share and the number of views are those of the authors' code: 0.8 and 3). 0.1 CE + 0.9 TeKAP.
    """

    def __init__(
        self, temperature: Positive = 4.0, views: Count = 3, noise: Share = 0.1, share: NonNegative = 0.8
    ) -> None:
        super().__init__()
        self.temperature, self.views, self.noise, self.share = temperature, views, noise, share

    def draw(self, logits: Tensor) -> Tensor:
        """Standard normal numbers, [B, K] -> [views, B, K]."""
        return torch.randn(self.views, *logits.shape, dtype=logits.dtype, device=logits.device)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits
        perturbed = (1 - self.noise) * t + self.noise * self.draw(t)
        scale = self.temperature**2
        return {
            "tekap_teacher": scale * soft_kl(s, t, self.temperature).mean(),
            "tekap_views": scale * self.share * soft_kl(s, perturbed, self.temperature).mean(1).sum(),
        }

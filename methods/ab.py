"""Activation boundaries: which neurons are on, not how strongly."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import Regressor
from kdbench.method.contract import Positive, Stage
from kdbench.method.stages import pair_stages


@register_method("ab", needs="preacts", paper="https://arxiv.org/abs/1811.03233", year=2019, family="maps")
class ActivationBoundaries(Method):
    """e = max(margin - s, 0)^2 where the teacher's neuron is on (t > 0), max(margin + s, 0)^2 where it is off (eq. 6).

    s and t are maps before the activation; where shapes differ, s comes from BN(conv(s)). `form: code` (default, the
    published tables'): sum over the last n stages i = 0.. of 2^(i - n + 1) * 0.003 * mean_b sum e, with the authors' 3
    over 1000 inside. `form: mean` (KD-Zoo): the mean of e, stages added up. Weight in the CRD table: 1, in a first
    phase of 30 epochs with nothing else, before plain cross-entropy.
    """

    def __init__(
        self, margin: Positive = 1.0, stages: tuple[Stage, ...] = (-3, -2, -1), form: Literal["code", "mean"] = "code"
    ) -> None:
        super().__init__()
        self.margin, self.stages, self.form = margin, stages, form
        self.connectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.preacts, teacher.preacts, self.stages, "maps before the activation")
        for s, t in self.pairs:
            maps = student.preacts[s], teacher.preacts[t]
            equal = maps[0].shape[1:] == maps[1].shape[1:]
            self.connectors.append(nn.Identity() if equal else Regressor(*maps, relu=False))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for i, ((s, t), connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            u = connector(student.preacts[s])
            with torch.no_grad():  # the nearest response that costs nothing: one's own, or the margin
                goal = torch.where(teacher.preacts[t] > 0, u.clamp(min=self.margin), u.clamp(max=-self.margin))
            if self.form == "mean":
                losses.append(F.mse_loss(u, goal))
            else:
                error = F.mse_loss(u, goal, reduction="sum") / len(u)
                losses.append(2.0 ** (i - len(self.pairs) + 1) * 3e-3 * error)
        return {"ab": torch.stack(losses).sum()}

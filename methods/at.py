"""Attention transfer: where a stage looks, not what it sees."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Positive, Stage
from kdbench.method.functional import pool_to_smaller, unit
from kdbench.method.stages import needs_places, pair_stages


@register_method("at", needs="features", paper="https://arxiv.org/abs/1612.03928", year=2017, family="maps")
class AttentionTransfer(Method):
    """Sum over stages of a distance between a(s) and a(t), with a(f) = unit(mean_c f^p) over the N positions.

    `form: code` (default, the published tables', weight 1000): mean over B*N of (a_s - a_t)^2, as in the authors'
    code; `paper`: mean_b ||a_s - a_t||_2 (Zagoruyko and Komodakis, eq. 2). `norm: l1p` takes sum_c |f|^p over
    (norm + 1e-6) instead, as KD-Zoo does. Of maps on different grids the larger is average-pooled.
    """

    def __init__(
        self,
        p: Positive = 2.0,
        stages: tuple[Stage, ...] = (-3, -2, -1),
        form: Literal["code", "paper"] = "code",
        norm: Literal["mean", "l1p"] = "mean",
    ) -> None:
        super().__init__()
        self.p, self.stages, self.form, self.norm = p, stages, form, norm

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        needs_places(student.features, teacher.features, self.pairs)

    def attention(self, maps: Tensor) -> Tensor:  # [B, C, H, W] -> [B, N]
        if self.norm == "l1p":
            energy = maps.abs().pow(self.p).sum(1).flatten(1)
            return energy / (energy.norm(dim=1, keepdim=True) + 1e-6)
        energy = maps.square() if self.p == 2 else maps.abs().pow(self.p)
        return unit(energy.mean(1).flatten(1))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = torch.zeros((), dtype=student.logits.dtype, device=student.logits.device)
        for s, t in self.pairs:
            s_map, t_map = pool_to_smaller(student.features[s], teacher.features[t])
            a_s, a_t = self.attention(s_map), self.attention(t_map)
            loss = loss + (F.mse_loss(a_s, a_t) if self.form == "code" else (a_s - a_t).norm(dim=1).mean())
        return {"at": loss}

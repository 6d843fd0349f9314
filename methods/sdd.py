"""Scale-decoupled distillation: the logits of every quarter of the picture, each distilled."""

from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, NonNegative, Positive, Share, one_label
from kdbench.method.functional import class_maps, decoupled_kl, normalised_ce, soft_kl, warm_up
from kdbench.method.stages import needs_class_maps

NEEDS = ("pooled_map", "embedding", "classifier")


@register_method("sdd", needs=NEEDS, paper="https://arxiv.org/abs/2403.13512", year=2024, family="logits")
class SDD(Method):
    """mean over pictures and regions of w * loss (Wei et al., section 3), ramped up over the first `warmup`.

    Regions: the whole, and the cells of `grids` (2: four quarters); their logits are the classifier's on the mean of
    the pooled map over the region. `loss`: kd, dkd (SD-DKD), nkd, or nkd_unmasked, the slip SD-NKD's table rests on.
    w = 2 where the teacher is right on the region and wrong on the whole, or the reverse; else 1. `alpha`, `beta` are
    DKD's, `gamma` NKD's, which has T = 1. Weight 1 beside 1 CE; the authors choose grids of (2,) or (2, 4) and beta 2,
    6 or 8 per pair. A grid finer than the map repeats its places, as their pooling does (MobileNetV2's is 2 x 2).
    """

    def __init__(
        self,
        loss: Literal["kd", "dkd", "nkd", "nkd_unmasked"] = "dkd",
        grids: tuple[Count, ...] = (2,),
        temperature: Positive = 4.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        gamma: NonNegative = 1.5,
        warmup: Share = 20 / 240,
    ) -> None:
        super().__init__()
        self.loss, self.grids, self.temperature, self.warmup = loss, grids, temperature, warmup
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "asks of each region whether its label is right")
        for side, outputs in (("student", student), ("teacher", teacher)):
            needs_class_maps(outputs, min(self.grids, default=1), side)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        loss = self.over_regions(self.regions(student), self.regions(teacher), batch.target)
        return {"sdd": warm_up(batch.progress, self.warmup) * loss}

    def regions(self, outputs: Outputs) -> Tensor:
        """Logits of every region, [B, K, N], the whole picture first."""
        assert outputs.classifier is not None
        assert outputs.pooled_map is not None
        maps = outputs.pooled_map
        return torch.cat([class_maps(maps, outputs.classifier, grid).flatten(2) for grid in (1, *self.grids)], dim=-1)

    def over_regions(self, s: Tensor, t: Tensor, target: Tensor) -> Tensor:
        """Mean of the weighted loss, from logits [B, K, N]."""
        right = t.argmax(1) == target[:, None]  # [B, N]
        weight = 1 + (right != right[:, :1]).to(s.dtype)
        s_rows, t_rows = (x.transpose(1, 2).flatten(0, 1) for x in (s, t))
        losses = self.each(s_rows, t_rows, target.repeat_interleave(s.shape[-1]))
        return (weight.flatten() * losses).mean()

    def each(self, s: Tensor, t: Tensor, target: Tensor) -> Tensor:  # [B * N, K] -> [B * N]
        if self.loss == "kd":
            return self.temperature**2 * soft_kl(s, t, self.temperature)
        if self.loss == "dkd":
            of_target, of_others = decoupled_kl(s, t, target, self.temperature)
            return self.temperature**2 * (self.alpha * of_target + self.beta * of_others)
        return normalised_ce(s, t, target, self.temperature, self.gamma, unmasked=self.loss == "nkd_unmasked")

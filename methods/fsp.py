"""Flow of solution procedure: how the channels of one stage go together with those of the next."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import pair_stages, same_channels

PAPER = "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"


@register_method("fsp", needs="features", paper=PAPER, year=2017, family="maps")
class FSP(Method):
    """Sum over neighbouring stages i of a distance of M_s, M_t with M_cd = (1/N) sum_n f_i,c f_i+1,d (eq. 1).

    `form: mse` (default, the published tables'): larger maps average-pooled, mean square over B and all entries.
    `form: norm` is torchdistill's: max-pooled, mean over B of sum_d ||(M_s - M_t)[:, d]||_2. Weight in the CRD table:
    50, in a first phase of 30 epochs with nothing else, before plain cross-entropy.
    """

    def __init__(self, stages: tuple[Stage, ...] = (-4, -3, -2, -1), form: Literal["mse", "norm"] = "mse") -> None:
        super().__init__()
        self.stages, self.form = stages, form

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        if len(self.pairs) < 2:
            raise Inapplicable("needs two stages or more: it compares how one leads to the next")
        for s, t in self.pairs:
            same_channels(student.features[s], teacher.features[t])

    def flow(self, first: Tensor, second: Tensor) -> Tensor:  # [B, C, H, W], [B, D, H', W'] -> [B, C, D]
        if self.form == "mse":
            first, second = pool_to_smaller(first, second)
        else:
            grid = [min(sides) for sides in zip(first.shape[2:], second.shape[2:], strict=True)]
            first, second = F.adaptive_max_pool2d(first, grid), F.adaptive_max_pool2d(second, grid)
        a, b = first.flatten(2), second.flatten(2)
        return a @ b.transpose(1, 2) / a.shape[2]

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for (s, t), (s_next, t_next) in pairwise(self.pairs):
            flow_s = self.flow(student.features[s], student.features[s_next])
            difference = flow_s - self.flow(teacher.features[t], teacher.features[t_next])
            losses.append(difference.square().mean() if self.form == "mse" else difference.norm(dim=1).sum(1).mean())
        return {"fsp": torch.stack(losses).sum()}

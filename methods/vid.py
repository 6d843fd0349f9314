"""Variational information distillation: how much of the teacher's map the student's can predict."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Positive, Stage
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import pair_stages


@register_method("vid", needs="features", paper="https://arxiv.org/abs/1904.05835", year=2019, family="maps")
class VID(Method):
    """Sum over stages of the mean of [(mu(s) - t)^2 / var_c + log var_c] / 2 (Ahn et al., eq. 5-6).

    mu: three 1x1 convolutions with ReLU between; var_c = softplus(a_c) + eps, learnt per channel (default, the
    published tables'). `fixed_var` keeps it at `initial_var`, which is what mdistiller trains in effect, since its
    optimizer never sees the a_c. Weight in the CRD table: 1.
    """

    def __init__(
        self,
        initial_var: Positive = 5.0,
        eps: Positive = 1e-5,
        fixed_var: bool = False,
        stages: tuple[Stage, ...] = (-3, -2, -1),
    ) -> None:
        super().__init__()
        self.start_var, self.eps, self.fixed_var, self.stages = initial_var, eps, fixed_var, stages
        self.predictors = nn.ModuleList()
        self.log_scales = nn.ParameterList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        start = math.log(math.expm1(max(self.start_var - self.eps, 1e-8)))
        for s, t in self.pairs:
            channels = teacher.features[t].shape[1]
            self.predictors.append(predictor(student.features[s].shape[1], channels))
            if not self.fixed_var:
                self.log_scales.append(nn.Parameter(torch.full((channels,), start, device=student.logits.device)))

    def variance(self, place: int, like: Tensor) -> Tensor:  # [C], or a scalar
        if self.fixed_var:
            return torch.full_like(like[0, 0, 0, 0], self.start_var)
        return F.softplus(self.log_scales[place]) + self.eps

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for place, (s, t) in enumerate(self.pairs):
            s_map, t_map = pool_to_smaller(student.features[s], teacher.features[t])
            var = self.variance(place, t_map)
            error = (self.predictors[place](s_map) - t_map).square().mean((0, 2, 3))
            losses.append((error / var + var.log()).mean() / 2)
        return {"vid": torch.stack(losses).sum()}


def predictor(in_channels: int, channels: int) -> nn.Sequential:
    first = nn.Conv2d(in_channels, channels, 1, bias=False)
    second, third = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

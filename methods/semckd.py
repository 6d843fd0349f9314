"""Semantic calibration: attention decides which of the teacher's stages each of the student's learns from."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Positive, Stage
from kdbench.method.functional import gram, pool_to_smaller, rows, unit
from kdbench.method.stages import pair_stages


@register_method("semckd", needs="features", paper="https://arxiv.org/abs/2012.03236", year=2021, family="maps")
class SemCKD(Method):
    """Mean over pictures b and the student's stages i of sum_j A_bij * MSE(r_ij(s_i), t_j) (Chen et al., eq. 5-8).

    A_bi = softmax_j(<q_bi, k_bj> / soft); q and k are unit outputs of small perceptrons on row b of a stage's Gram
    matrix over the batch. Those are as wide as a training batch, as in the authors' code: a smaller one is filled up
    with zeros, a larger one cut into groups. r_ij: 1x1, 3x3 and 1x1 convolutions, or one 1x1 (`regressor: linear`). Of
    maps on different grids the larger is average-pooled. Authors' weight on CIFAR-100: 400.
    """

    def __init__(
        self,
        soft: Positive = 1.0,
        regressor: Literal["bottleneck", "linear"] = "bottleneck",
        stages: tuple[Stage, ...] = (-3, -2, -1),
    ) -> None:
        super().__init__()
        self.soft, self.kind, self.stages = soft, regressor, stages
        self.queries, self.keys, self.regressors = nn.ModuleList(), nn.ModuleList(), nn.ModuleDict()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        pairs = pair_stages(student.features, teacher.features, self.stages)
        self.s, self.t = sorted({s for s, _ in pairs}), sorted({t for _, t in pairs})
        self.width = task.batch_size
        self.queries.extend(perceptron(self.width) for _ in self.s)
        self.keys.extend(perceptron(self.width) for _ in self.t)
        for s in self.s:
            for t in self.t:
                channels = student.features[s].shape[1], teacher.features[t].shape[1]
                linear = self.kind == "linear"
                self.regressors[f"{s}-{t}"] = nn.Conv2d(*channels, 1, bias=False) if linear else bottleneck(*channels)

    def attention(self, student: Outputs, teacher: Outputs) -> Tensor:  # [B, student's stages, teacher's stages]
        q = [unit(net(self.similarities(student.features[s]))) for net, s in zip(self.queries, self.s, strict=True)]
        k = [unit(net(self.similarities(teacher.features[t]))) for net, t in zip(self.keys, self.t, strict=True)]
        return torch.softmax(torch.stack(q, 1) @ torch.stack(k, 2) / self.soft, dim=-1)

    def similarities(self, maps: Tensor) -> Tensor:  # [B, C, H, W] -> [B, batch_size]
        groups = [gram(group) for group in rows(maps).split(self.width)]
        return torch.cat([F.pad(g, (0, self.width - len(g))) for g in groups])

    def errors(self, student: Outputs, teacher: Outputs, s: int, t: int) -> Tensor:  # [B]
        s_map, t_map = pool_to_smaller(student.features[s], teacher.features[t])
        return (self.regressors[f"{s}-{t}"](s_map) - t_map).square().flatten(1).mean(1)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        errors = [torch.stack([self.errors(student, teacher, s, t) for t in self.t], 1) for s in self.s]
        return {"semckd": (self.attention(student, teacher) * torch.stack(errors, 1)).sum(2).mean()}


def perceptron(width: int) -> nn.Sequential:
    """Widths W -> W/2 -> W/4."""
    out = max(width // 4, 1)
    return nn.Sequential(nn.Linear(width, 2 * out), nn.ReLU(), nn.Linear(2 * out, out))


def bottleneck(in_channels: int, out_channels: int) -> nn.Sequential:
    mid = 2 * out_channels
    last = nn.Conv2d(mid, out_channels, 1, bias=False)
    return nn.Sequential(ConvBN(in_channels, mid, relu=True), ConvBN(mid, mid, 3, relu=True), last)

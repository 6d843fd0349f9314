"""Masked generative distillation: from a map with channels knocked out the student must restore the teacher's."""

import torch
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import match_channels
from kdbench.method.contract import Share, Stage
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import pair_stages


@register_method("mgd", needs="features", paper="https://arxiv.org/abs/2205.01529", year=2022, family="maps")
class MGD(Method):
    """mean_b sum (g(mask * a(s)) - t)^2 (Yang et al., eq. 4), g two 3x3 convolutions with ReLU between, a a 1x1.

    A share `masked` of the channels of each picture is set to 0, as the authors do for classification. There is no a
    where channels are equal. Of maps on different grids the larger is average-pooled. Authors' weight (ImageNet):
    0.00007.
    """

    def __init__(self, masked: Share = 0.15, stage: Stage = -1) -> None:
        super().__init__()
        self.masked, self.stage = masked, stage
        self.align: nn.Module = nn.Identity()
        self.generate: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        channels = teacher.features[self.t].shape[1]
        self.align = match_channels(student.features[self.s], teacher.features[self.t])
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.generate = nn.Sequential(first, nn.ReLU(), second)

    def draw(self, maps: Tensor) -> Tensor:
        """Uniform numbers [B, C, 1, 1]; a channel is masked where its own lies below the share."""
        return torch.rand(*maps.shape[:2], 1, 1, dtype=maps.dtype, device=maps.device)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = pool_to_smaller(student.features[self.s], teacher.features[self.t])
        s = self.align(s)
        restored = self.generate(s * (self.draw(s) >= self.masked))
        return {"mgd": (restored - t).square().sum() / len(t)}

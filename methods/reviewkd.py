"""Knowledge review: deep and shallow maps of the student, fused step by step, meet the teacher's stages."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Count, Stage
from kdbench.method.functional import to_grid
from kdbench.method.stages import pair_stages

PAPER = "https://arxiv.org/abs/2104.09044"
STUDENT = ("features", "embedding")


@register_method(
    "reviewkd", needs=("preacts", "embedding"), student_needs=STUDENT, paper=PAPER, year=2021, family="maps"
)
class ReviewKD(Method):
    """Hierarchical context loss (`hcl`) between attention-fused maps of the student and the teacher's (section 3).

    The student's inputs are its maps and, deepest, its embedding as a 1x1 map; the targets are the teacher's maps
    before the activation, and its embedding. `max_width` bounds the channels inside the fusion modules. The authors'
    weights on CIFAR-100 differ by pair (0.6 to 8) and rise from 0 over the first 20 of 240 epochs. Their CIFAR code
    leaves the teacher in train mode (its batch norm uses, and follows, the batch's statistics), and their table rests
    on it (`teacher_norms: batch`); mdistiller's port, reproduced within 0.5 points, has it in eval mode, as here.
    """

    def __init__(self, stages: tuple[Stage, ...] = (-3, -2, -1), max_width: Count = 512) -> None:
        super().__init__()
        self.stages, self.limit = stages, max_width
        self.fusions = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = sorted(pair_stages(student.features, self.targets(teacher), self.stages))
        s_maps, t_maps = self.pyramids(student, teacher)
        width = min(self.limit, s_maps[-1].shape[1])
        for s, t in zip(s_maps, t_maps, strict=True):
            self.fusions.append(Fusion(s.shape[1], width, t.shape[1], deepest=s is s_maps[-1]))

    def targets(self, teacher: Outputs) -> Sequence[Tensor]:
        return teacher.preacts

    def pyramids(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of both sides, shallow to deep, the embedding last as [B, D, 1, 1]."""
        assert student.embedding is not None
        assert teacher.embedding is not None
        s_maps = [student.features[s] for s, _ in self.pairs]
        t_maps = [self.targets(teacher)[t] for _, t in self.pairs]
        return [*s_maps, student.embedding[:, :, None, None]], [*t_maps, teacher.embedding[:, :, None, None]]

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s_maps, t_maps = self.pyramids(student, teacher)
        review: Tensor | None = None
        losses = []
        for s, t, fusion in list(zip(s_maps, t_maps, self.fusions, strict=True))[::-1]:
            out, review = fusion(s, review, (t.shape[2], t.shape[3]))
            losses.append(hcl(out, t))
        return {"reviewkd": torch.stack(losses).sum()}


@register_method("reviewkd_features", needs=("features", "embedding"), paper=PAPER, year=2021, family="maps")
class ReviewKDFeatures(ReviewKD):
    """As `reviewkd`, but against the teacher's maps as they are, for nets whose stages don't end in an activation."""

    def targets(self, teacher: Outputs) -> Sequence[Tensor]:
        return teacher.features


class Fusion(nn.Module):
    """ABF: a stage's map joined with the review of all deeper ones by two attention maps of its own (figure 3a)."""

    def __init__(self, in_channels: int, width: int, out_channels: int, deepest: bool) -> None:
        super().__init__()
        self.enter = ConvBN(in_channels, width)
        self.leave = ConvBN(width, out_channels, kernel=3)
        self.attend: Any = None if deepest else nn.Conv2d(2 * width, 2, 1)
        for part in (self.enter, self.leave):
            nn.init.kaiming_uniform_(part.conv.weight, a=1)

    def forward(self, x: Tensor, review: Tensor | None, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W] and the deeper review -> the output on the teacher's `grid`, and the review so far."""
        z = self.enter(x)
        if review is not None:
            # A 1x1 convolution of both joined is the sum of one of each; the review's is made before it grows.
            of_z, of_review = self.attend.weight.chunk(2, 1)
            attention = F.conv2d(z, of_z, self.attend.bias) + grown(F.conv2d(review, of_review), z)
            a, b = torch.sigmoid(attention).split(1, dim=1)
            z = z * a + grown(review, z) * b
        if z.shape[2:] != grid:
            z = F.interpolate(z, grid, mode="nearest")
        return self.leave(z), z


def grown(x: Tensor, like: Tensor) -> Tensor:
    """A map [B, C, H, W] on the grid of `like`."""
    return F.interpolate(x, like.shape[2:], mode="nearest")


def hcl(s: Tensor, t: Tensor) -> Tensor:
    """Weighted mean of the square errors of two maps [B, C, H, W] and of them pooled to 4x4, 2x2 and 1x1.

    The weights are 1, then 1/2, 1/4, ... for the pooled grids that are smaller than H.
    """
    total, weight, weights = F.mse_loss(s, t), 1.0, 1.0
    for side in (4, 2, 1):
        if side < s.shape[2]:
            weight /= 2
            grid = (side, min(side, s.shape[3]))
            total = total + weight * F.mse_loss(to_grid(s, grid), to_grid(t, grid))
            weights += weight
    return total / weights

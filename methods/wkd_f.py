"""WKD-F: the Wasserstein distance of the Gaussians that describe the positions of two maps."""

import math

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.adapters import Regressor
from kdbench.method.contract import Count, NonNegative, Share, Stage
from kdbench.method.functional import cosine_decay
from kdbench.method.stages import pair_stages


@register_method("wkd_f", needs="features", paper="https://arxiv.org/abs/2412.08139", year=2024, family="maps")
class WKDF(Method):
    """mean_b sum_c [`ratio` (m_s - m_t)^2 + (d_s - d_t)^2], m: mean, d: sqrt(variance + 1e-5) of a channel's positions.

    The Wasserstein distance of Gaussians with diagonal covariances (Lv et al.; divisor N - 1), of r(s) and
    t, r the `Regressor` of FitNets. With `grid` n, in n x n cells of the map (adaptive pooling's, which may overlap),
    the mean over cells. The weight falls by a cosine from `decay_from` on. Authors' (weight, ratio, grid):
    resnet32x4-resnet8x4 (0.006, 4, 1), wrn_40_2-shufflenetv1 (0.3, 3, 4), ImageNet resnet34-resnet18 (0.02, 2, 4).
    """

    def __init__(
        self, ratio: NonNegative = 4.0, grid: Count = 1, stage: Stage = -1, decay_from: Share = 150 / 240
    ) -> None:
        super().__init__()
        self.ratio, self.grid, self.stage, self.decay_from = ratio, grid, stage, decay_from

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        t = teacher.features[self.t]
        if min(cell.shape[2:].numel() for cell in cells(t, self.grid)) == 1:
            size = " x ".join(map(str, t.shape[2:]))
            raise Inapplicable(f"needs cells of 2 positions or more; the teacher's map is {size}, the grid {self.grid}")
        self.regressor = Regressor(student.features[self.s], t)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = self.regressor(student.features[self.s]), teacher.features[self.t]
        mean, deviation = (a - b for a, b in zip(self.gaussians(s), self.gaussians(t), strict=True))
        scale = cosine_decay(batch.progress, self.decay_from) / (len(t) * self.grid**2)
        return {
            "wkd_f_mean": scale * self.ratio * mean.square().sum(),
            "wkd_f_deviation": scale * deviation.square().sum(),
        }

    def gaussians(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every channel in every cell, [B, C, H, W] -> twice [grid^2, B, C]."""
        moments = [torch.var_mean(cell, dim=(2, 3)) for cell in cells(x, self.grid)]
        variance, mean = (torch.stack(parts) for parts in zip(*moments, strict=True))
        return mean, (variance + 1e-5).sqrt()


def cells(x: Tensor, grid: int) -> list[Tensor]:
    """The cells of adaptive pooling to `grid` x `grid`."""
    heights, widths = ([(i * n // grid, math.ceil((i + 1) * n / grid)) for i in range(grid)] for n in x.shape[2:])
    return [x[:, :, top:bottom, left:right] for top, bottom in heights for left, right in widths]

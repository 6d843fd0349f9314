"""Layers that make a student's map or embedding comparable with the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also takes one value per channel (one picture on a 1 x 1 grid): it is its own mean, so 0."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return 0 * x * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(x)


class Regressor(nn.Module):
    """Brings a student's map to the shape of the teacher's: ReLU(BN(conv)), the CRD benchmark's `ConvReg`.

    1x1 on equal grids, 3x3 with stride 2 when the student's grid is twice the teacher's, a transposed 4x4 with
    stride 2 when it is half; any other grid is average-pooled or interpolated before the 1x1. `relu=False` ends in BN.
    """

    def __init__(self, student: Tensor, teacher: Tensor, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu
        (s_channels, *s_grid), (t_channels, *t_grid) = student.shape[1:], teacher.shape[1:]
        self.grid = (t_grid[0], t_grid[1])
        self.resize = False
        self.conv: nn.Module
        if [2 * n for n in t_grid] == s_grid:
            self.conv = nn.Conv2d(s_channels, t_channels, 3, stride=2, padding=1)
        elif [2 * n for n in s_grid] == t_grid:
            self.conv = nn.ConvTranspose2d(s_channels, t_channels, 4, stride=2, padding=1)
        else:
            self.resize = s_grid != t_grid
            self.conv = nn.Conv2d(s_channels, t_channels, 1)
        self.bn = BatchNorm(t_channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, C_s, H_s, W_s] -> [B, C_t, H_t, W_t]
        if self.resize:
            x = resize(x, self.grid)
        x = self.bn(self.conv(x))
        return torch.relu(x) if self.relu else x


class ConvBN(nn.Module):
    """BN(conv(x)), then ReLU if asked for; the grid stays as it is and the convolution has no bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, relu: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = BatchNorm(out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:  # [B, C_in, H, W] -> [B, C_out, H, W]
        x = self.bn(self.conv(x))
        return torch.relu(x) if self.relu else x


def match_channels(student: Tensor, teacher: Tensor) -> nn.Module:
    """What brings a student's map to the teacher's channels: a 1x1 convolution, nothing where they are equal."""
    s_channels, t_channels = student.shape[1], teacher.shape[1]
    return nn.Identity() if s_channels == t_channels else nn.Conv2d(s_channels, t_channels, 1)


def resize(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] pooled (shrinking) or bilinearly interpolated (growing) to `grid`."""
    if x.shape[-2] >= grid[0] and x.shape[-1] >= grid[1]:
        return F.adaptive_avg_pool2d(x, grid)
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)

"""Which stage of the student meets which stage of the teacher, and how their shapes are made equal."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.method import Inapplicable

Pairs = list[tuple[int, int]]  # (place in the student's features, place in the teacher's)


def pair_stages(
    student: Sequence[Tensor], teacher: Sequence[Tensor], stages: Sequence[int | float], what: str = "feature maps"
) -> Pairs:
    """Pairs of stage numbers (from the shallow end) for the `stages` asked for.

    A negative whole number counts the student's stages from the deep end; a fraction is a depth, 1.0 the last stage.
    The teacher's partner is the stage at the same place from the deep end where both have equally many stages, else
    the one at the same fraction of depth. Nothing is cut silently: raises Inapplicable when a stage does not exist.
    """
    for name, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise Inapplicable(f"needs {what}; the {name} gives none")
    pairs = []
    for stage in stages:
        if isinstance(stage, int) and -stage > len(student):
            raise Inapplicable(f"needs stage {stage}; the student has only {len(student)} stages")
        place = len(student) + stage if isinstance(stage, int) else _at_depth(stage, len(student))
        depth = stage if isinstance(stage, float) else (place + 1) / len(student)
        partner = place if len(student) == len(teacher) else _at_depth(depth, len(teacher))
        pairs.append((int(place), partner))
    return pairs


def _at_depth(depth: float, count: int) -> int:
    """The stage that ends nearest to `depth` (0..1] of a net with `count` stages."""
    return min(range(count), key=lambda place: (abs((place + 1) / count - depth), -place))


def same_channels(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two maps [B, C, H, W] have equally many channels."""
    if student.shape[1] != teacher.shape[1]:
        raise Inapplicable(f"needs equal channels; student has {student.shape[1]}, teacher {teacher.shape[1]}")


class Regressor(nn.Module):
    """Brings a student's map to the shape of the teacher's: ReLU(BN(conv)), the CRD benchmark's `ConvReg`.

    1x1 on equal grids, 3x3 with stride 2 when the student's grid is twice the teacher's, a transposed 4x4 with
    stride 2 when it is half; any other grid is average-pooled or interpolated before the 1x1.
    """

    def __init__(self, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
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
        self.bn = nn.BatchNorm2d(t_channels)

    def forward(self, x: Tensor) -> Tensor:  # [B, C_s, H_s, W_s] -> [B, C_t, H_t, W_t]
        if self.resize:
            x = resize(x, self.grid)
        return torch.relu(self.bn(self.conv(x)))


def resize(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """A map [B, C, H, W] pooled (shrinking) or bilinearly interpolated (growing) to `grid`."""
    if x.shape[-2] >= grid[0] and x.shape[-1] >= grid[1]:
        return F.adaptive_avg_pool2d(x, grid)
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)

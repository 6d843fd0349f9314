"""Which stage of the student meets which stage of the teacher, and how their shapes are made equal."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.method import Inapplicable, Outputs

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


def needs_places(student: Sequence[Tensor], teacher: Sequence[Tensor], pairs: Pairs) -> None:
    """Raises Inapplicable when every pair of maps [B, C, H, W] shares but one position: nothing to compare over it."""
    if all(min(student[s].shape[2:].numel(), teacher[t].shape[2:].numel()) == 1 for s, t in pairs):
        raise Inapplicable(
            "compares positions of a map, and these maps are 1 x 1; take a larger picture or other stages"
        )


def embeddings(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """The student's [B, D_s] and the teacher's [B, D_t], of a method that needs `embedding`."""
    assert student.embedding is not None
    assert teacher.embedding is not None
    return student.embedding, teacher.embedding


def same_width(student: Tensor, teacher: Tensor) -> None:
    """Raises Inapplicable unless two embeddings [B, D] are equally wide."""
    if student.shape[1] != teacher.shape[1]:
        widths = f"student has {student.shape[1]}, teacher {teacher.shape[1]}"
        raise Inapplicable(f"needs embeddings of equal width; {widths}")


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


def needs_class_maps(outputs: Outputs, grid: int, side: str) -> None:
    """Raises Inapplicable unless the net averages its last map [B, D, H, W] for its classifier, H and W >= `grid`."""
    if not outputs.features:
        raise Inapplicable(f"needs feature maps; the {side} gives none")
    assert outputs.classifier is not None
    assert outputs.embedding is not None
    maps, width = outputs.features[-1], outputs.classifier[0].shape[1]
    if maps.shape[1] != width:
        found = f"the {side}'s reads {width} channels, the map has {maps.shape[1]}"
        raise Inapplicable(f"needs a classifier on the last stage's map; {found}")
    if min(maps.shape[-2:]) < grid:
        size = " x ".join(map(str, maps.shape[-2:]))
        raise Inapplicable(f"needs last maps of at least {grid} x {grid}; the {side}'s are {size}")
    # A norm or a class token between map and classifier does not show in shapes: where there are values, look at them.
    mean = maps.mean((2, 3))
    if not maps.is_meta and (mean - outputs.embedding).abs().max() > 1e-2 * mean.abs().max() + 1e-6:
        raise Inapplicable(f"needs a classifier on the mean of the last stage's map; the {side}'s reads something else")

"""A comprehensive overhaul of feature distillation: maps before the ReLU, negatives cut at a margin."""

import math

import torch
from torch import Tensor, nn

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Stage
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import pair_stages


@register_method(
    "ofd",
    needs=("preacts", "norms"),
    student_needs="preacts",
    paper="https://arxiv.org/abs/1904.01866",
    year=2019,
    family="maps",
)
class Overhaul(Method):
    """Sum over n stages i = 0.. of 2^(i - n + 1) * mean_b sum d_p(BN(conv1x1(s)), max(t, m)) (Heo et al., eq. 2-5).

    s and t are maps before the activation; d_p is the squared difference, 0 where the target is not positive and the
    student lies below it. m_c is the expected negative response of channel c, from the teacher's batch norm (eq. 4).
    Of maps on different grids the larger is average-pooled. Weight on CIFAR-100: 0.001.

    The authors' code, and mdistiller's, leave the teacher in train mode: its batch norm uses the batch's statistics,
    and the published numbers rest on that: `teacher_norms: batch`. Without it the teacher is in eval mode, as for all.
    Connectors start from PyTorch's default, theirs from N(0, 2 / (k^2 C_out)); the batch norm after them takes it off.
    """

    def __init__(self, stages: tuple[Stage, ...] = (-3, -2, -1)) -> None:
        super().__init__()
        self.stages = stages
        self.connectors = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.preacts, teacher.preacts, self.stages, "maps before the activation")
        if len(teacher.norms) != len(teacher.preacts):
            raise Inapplicable("needs a batch norm before the last activation of every stage of the teacher")
        for place, (s, t) in enumerate(self.pairs):
            self.connectors.append(ConvBN(student.preacts[s].shape[1], teacher.preacts[t].shape[1]))
            self.register_buffer(f"margin{place}", margins(teacher.norms[t]))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for place, (s, t) in enumerate(self.pairs):
            s_map, target = pool_to_smaller(student.preacts[s], teacher.preacts[t])
            u = self.connectors[place](s_map)
            target = target.maximum(self.get_buffer(f"margin{place}")[:, None, None])
            error = (u - target).square() * ((u > target) | (target > 0))
            losses.append(2.0 ** (place - len(self.pairs) + 1) * error.sum() / len(u))
        return {"ofd": torch.stack(losses).sum()}


def margins(norm: Tensor) -> Tensor:
    """[2, C], scale and shift of a batch norm -> [C]: the mean of the negative part of N(shift, scale^2)."""
    scale, shift = norm[0].abs().clamp(min=1e-12), norm[1]
    below = torch.special.ndtr(-shift / scale)
    density = torch.exp(-(shift / scale).square() / 2) / math.sqrt(2 * math.pi)
    return torch.where(below > 1e-3, shift - scale * density / below.clamp(min=1e-3), -3 * scale)

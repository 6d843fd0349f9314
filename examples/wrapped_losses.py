"""Losses of other projects' forms, wrapped as methods: theirs stay as they are, `forward` hands them what they read.

`FactorLoss` stands for a class of torchdistill's form: it is called with what was captured of both nets, by module.
`similarity` stands for a function of mdistiller's form: maps of both nets, a plain number.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method


class FactorLoss(nn.Module):
    """As it came: reads {"teacher": {"layer4": {"output": ...}}, ...}."""

    def forward(self, student_io: dict, teacher_io: dict) -> Tensor:
        student, teacher = student_io["layer4"]["output"], teacher_io["layer4"]["output"]
        return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))


def similarity(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """As it came: [B, C, H, W] of both; their batches' similarity matrices."""
    grams = [F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (student_map, teacher_map)]
    return (grams[0] - grams[1]).square().mean()


@register_method("factor", needs="features", year=2026)
class Factor(Method):
    """FactorLoss on the last maps, the student's brought to the teacher's channels."""

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        before, after = student.features[-1].shape[1], teacher.features[-1].shape[1]
        self.theirs, self.match = FactorLoss(), nn.Conv2d(before, after, 1)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        own, other = self.match(student.features[-1]), teacher.features[-1]
        own = F.adaptive_avg_pool2d(own, other.shape[-2:])
        io = [{"layer4": {"output": x}} for x in (own, other)]
        return {"factor": self.theirs(*io)}


@register_method("map_similarity", needs="features", year=2026)
class MapSimilarity(Method):
    """`similarity` on the last maps: nothing to build."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"map_similarity": similarity(student.features[-1], teacher.features[-1])}

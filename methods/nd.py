"""The ND loss of KD++: the student's embedding points at the class's mean of the teacher, and is no shorter than it."""

import torch
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import BatchNorm
from kdbench.method.contract import EpochOf, Share, one_label
from kdbench.method.functional import is_class, unit
from kdbench.method.stages import embeddings


@register_method("nd", needs="embedding", paper="https://arxiv.org/abs/2305.17007", year=2023, family="relations")
class NormAndDirection(Method):
    """mean_b (1 - <s, e_y> / max(|s|, |t|)), e_y: unit mean of the teacher's embeddings of class y (Wang et al.).

    The means are taken over one pass of the training pictures (the authors': without augmentation). Where widths
    differ, s goes through BN, drop-out of `drop` and a linear map, as in the authors' code. KD++ is (weights of CE, KD
    at T = 4, ND): resnet56-resnet20 (1, 1, 2), resnet32x4-resnet8x4 (1, 3.5, 2), wrn_40_2-wrn_40_1 (1, 1, 1.5),
    resnet50-mobilenetv2 (1, 3, 0.5), resnet32x4-shufflenetv1 (1, 2.5, 1.5), -v2 (1, 4, 0.5).
    """

    centres: Tensor  # [K, D_t], 0 until `prepare`

    def __init__(self, drop: Share = 0.5) -> None:
        super().__init__()
        self.drop = drop
        self.embed: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        one_label(task, "points at the mean of a picture's class")
        s, t = embeddings(student, teacher)
        self.register_buffer("centres", torch.zeros(task.num_classes, t.shape[1]))
        if s.shape[1] != t.shape[1]:
            norm = nn.Sequential(nn.Unflatten(1, (-1, 1, 1)), BatchNorm(s.shape[1]), nn.Flatten())
            self.embed = nn.Sequential(norm, nn.Dropout(self.drop), nn.Linear(s.shape[1], t.shape[1]))

    def prepare(self, epoch_of: EpochOf) -> None:
        """The mean embedding of every class; only its direction counts, so sums will do."""
        for teacher, batch in epoch_of(0):
            assert teacher.embedding is not None
            hot = is_class(batch.target, len(self.centres)).to(self.centres)  # a product: its order is always the same
            self.centres = self.centres + hot.T @ teacher.embedding
        self.centres = unit(self.centres)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        s = self.embed(s)
        length = s.norm(dim=1).maximum(t.norm(dim=1)).clamp(min=1e-12)
        along = (s * self.centres[batch.target]).sum(1) / length
        return {"nd": (1 - along).mean()}

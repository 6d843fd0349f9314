"""Cosine distance between the embeddings, the student's projected to the teacher's width."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method


@register_method("cosine", needs="embedding", year=2026)
class Cosine(Method):
    """(1 - cos(W e_s, e_t)) ** p, the mean over the batch."""

    def __init__(self, p: float = 1.0) -> None:
        super().__init__()
        self.p = p

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.project = nn.Linear(student.embedding.shape[1], teacher.embedding.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        cosine = F.cosine_similarity(self.project(student.embedding), teacher.embedding)
        return {"cosine": ((1 - cosine) ** self.p).mean()}

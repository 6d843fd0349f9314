"""Plain cross-entropy with the labels: the student alone, and part of nearly every objective."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Share


@register_method("ce", needs=(), family="labels")
class CrossEntropy(Method):
    """Mean over the batch of -log softmax(s)_y, with labels mixed by `label_smoothing` with a uniform distribution."""

    def __init__(self, label_smoothing: Share = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce": F.cross_entropy(student.logits, batch.target, label_smoothing=self.label_smoothing)}

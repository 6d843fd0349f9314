"""Plain cross-entropy with the labels: the student alone, and part of nearly every objective."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Share
from kdbench.method.functional import is_class


@register_method("ce", needs=(), family="labels")
class CrossEntropy(Method):
    """Mean over the batch of -log softmax(s)_y, with labels mixed by `label_smoothing` with a uniform distribution.

    Where pictures are mixed the labels are too: -sum_k y_k log softmax(s)_k. `binary`: each class is a question of its
    own, the mean over B and K of -y_k log sigmoid(s_k) - (1 - y_k) log(1 - sigmoid(s_k)); with a `threshold` the answer
    is yes for every y_k above it (Wightman et al. 2021, https://arxiv.org/abs/2110.00476: 0.2).
    """

    def __init__(
        self, label_smoothing: Share = 0.0, binary: Literal[True] | None = None, threshold: Share | None = None
    ) -> None:
        super().__init__()
        self.label_smoothing, self.binary, self.threshold = label_smoothing, binary, threshold

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        if not self.binary and self.threshold is not None:
            raise Inapplicable("takes a threshold only with binary: true")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        if self.binary:
            return {"ce": self.of_each_class(student.logits, batch)}
        return {"ce": F.cross_entropy(student.logits, batch.labels, label_smoothing=self.label_smoothing)}

    def of_each_class(self, logits: Tensor, batch: Batch) -> Tensor:
        soft = is_class(batch.target, logits.shape[-1]) if batch.soft is None else batch.soft
        soft = soft.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
        if self.threshold is not None:
            soft = (soft > self.threshold).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, soft)

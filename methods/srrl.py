"""Softmax regression representation learning: the teacher's own classifier judges the student's features."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.adapters import BatchNorm
from kdbench.method.contract import NonNegative, Stage
from kdbench.method.stages import embeddings, pair_stages


@register_method(
    "srrl",
    needs=("logits", "embedding", "classifier"),
    student_needs=("embedding", "features"),
    paper="https://openreview.net/forum?id=ZzwDy_wiWv",
    year=2021,
    family="relations",
)
class SRRL(Method):
    """`alpha` MSE(f, h_t) + `beta` MSE(W_t f + b_t, logits_t), h the embedding (Yang et al., eq. 3 and 6).

    f = ReLU(BN(W h_s)) of the pooled vector (default `form: vector`, SimKD's table, weight 1), or the spatial mean of
    ReLU(BN(conv1x1)) of the student's map at `stage` (`map`, the paper's order).
    """

    def __init__(
        self,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 1.0,
        form: Literal["vector", "map"] = "vector",
        stage: Stage = -1,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.form, self.stage = alpha, beta, form, stage

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        s, t = embeddings(student, teacher)
        assert teacher.classifier is not None
        if teacher.classifier[0].shape[1] != t.shape[1]:
            raise Inapplicable("needs the embedding that the teacher's classifier reads")
        if self.form == "map":
            [(self.place, _)] = pair_stages(student.features, student.features, [self.stage])
            s = student.features[self.place]
        self.conv = nn.Conv2d(s.shape[1], t.shape[1], 1, bias=False)
        self.bn = BatchNorm(t.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        assert teacher.classifier is not None
        maps = student.features[self.place] if self.form == "map" else s[:, :, None, None]
        f = torch.relu(self.bn(self.conv(maps))).mean((2, 3))
        return {
            "srrl_feature": self.alpha * F.mse_loss(f, t),
            "srrl_logits": self.beta * F.mse_loss(F.linear(f, *teacher.classifier), teacher.logits),
        }

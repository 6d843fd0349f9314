"""SimKD: the student learns the teacher's last map, and borrows the teacher's classifier for good."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Count
from kdbench.method.functional import pool_to_smaller
from kdbench.method.stages import needs_class_maps, pair_stages


@register_method(
    "simkd",
    needs=("features", "embedding", "classifier"),
    student_needs="features",
    paper="https://arxiv.org/abs/2203.14001",
    year=2022,
    family="maps",
)
class SimKD(Method):
    """MSE(r(s), t) of the last maps, the mean over all entries (Chen et al., eq. 3). Weight 1, and no other loss.

    r: 1x1, 3x3 and 1x1 convolutions with BN and ReLU, inside of the teacher's channels over `factor`. It stays at
    inference: the student's logits are the teacher's classifier on the spatial mean of r(s); both count as parameters
    of the student. The larger grid is average-pooled.
    """

    def __init__(self, factor: Count = 2) -> None:
        super().__init__()
        self.narrowing = factor
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [-1])
        needs_class_maps(teacher, 1, "teacher")
        assert teacher.classifier is not None
        weight, bias = teacher.classifier
        s_channels, channels = student.features[self.s].shape[1], weight.shape[1]
        mid = max(channels // self.narrowing, 1)
        layers = ConvBN(s_channels, mid, relu=True), ConvBN(mid, mid, 3, relu=True), ConvBN(mid, channels, relu=True)
        self.adapter = nn.Sequential(*layers)
        self.weight, self.bias = (nn.Parameter(x.detach().clone(), requires_grad=False) for x in (weight, bias))

    def infer(self, student: Outputs) -> Tensor:
        return F.linear(self.adapter(student.features[self.s]).mean((2, 3)), self.weight, self.bias)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = pool_to_smaller(student.features[self.s], teacher.features[self.t])
        return {"simkd": F.mse_loss(self.adapter(s), t)}

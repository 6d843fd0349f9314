"""SimKD: the student learns the teacher's last map, and borrows the teacher's classifier for good."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.adapters import ConvBN
from kdbench.method.contract import Count
from kdbench.method.functional import to_grid
from kdbench.method.stages import needs_class_maps


@register_method(
    "simkd",
    needs=("pooled_map", "embedding", "classifier"),
    student_needs="features",
    paper="https://arxiv.org/abs/2203.14001",
    year=2022,
    family="maps",
)
class SimKD(Method):
    """MSE(r(s), t), the mean over all entries (Chen et al., eq. 3). Weight 1, and no other loss.

    t: the map that the teacher pools; s: the map of the student's last stage (before MobileNetV2's and ShuffleNetV2's
    last convolution, as in the authors' code). r: 1x1, 3x3 and 1x1 convolutions with BN and ReLU, inside of the
    teacher's channels over `factor`. It stays at inference: the student's logits are the teacher's classifier on the
    spatial mean of r(s); both count as parameters of the student. A map of the student on a larger grid than the
    teacher's is average-pooled to it before r, in training and after it; a larger one of the teacher, to the student's.
    """

    def __init__(self, factor: Count = 2) -> None:
        super().__init__()
        self.narrowing = factor
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        needs_class_maps(teacher, 1, "teacher")
        assert teacher.classifier is not None
        assert teacher.pooled_map is not None
        if not student.features:
            raise Inapplicable("needs feature maps; the student gives none")
        weight, bias = teacher.classifier
        (t_height, t_width), (s_height, s_width) = teacher.pooled_map.shape[2:], student.features[-1].shape[2:]
        self.grid = (min(t_height, s_height), min(t_width, s_width))
        s_channels, channels = student.features[-1].shape[1], weight.shape[1]
        mid = max(channels // self.narrowing, 1)
        layers = ConvBN(s_channels, mid, relu=True), ConvBN(mid, mid, 3, relu=True), ConvBN(mid, channels, relu=True)
        self.adapter = nn.Sequential(*layers)
        self.weight, self.bias = (nn.Parameter(x.detach().clone(), requires_grad=False) for x in (weight, bias))

    def infer(self, student: Outputs) -> Tensor:
        return F.linear(self.projected(student).mean((2, 3)), self.weight, self.bias)

    def projected(self, student: Outputs) -> Tensor:
        """r(s) [B, C, H, W], on the grid that it is trained on."""
        return self.adapter(to_grid(student.features[-1], self.grid))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        assert teacher.pooled_map is not None
        return {"simkd": F.mse_loss(self.projected(student), to_grid(teacher.pooled_map, self.grid))}

"""VkD: the student's features reach the teacher's by an orthogonal map, so that it can hide no work in the adapter."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.stages import pair_stages


@register_method("vkd", needs="features", paper="https://arxiv.org/abs/2403.06213", year=2024, family="maps")
class VkD(Method):
    """Smooth L1 of P s and norm(t), the mean over all entries, s and t the spatial means of the maps at `stage`.

    P has orthonormal columns (rows, if the student is wider); norm sets every t to mean 0 and variance 1 over its
    channels (Miles et al.; standardisation is for classification, whitening for generation).
    P is the Q factor of a trained matrix; the authors' code has PyTorch's `orthogonal`, another chart of the same
    maps. Theirs (ImageNet, a CNN teaching DeiT): 1 CE + 1 VkD + 1 KL of the logits at T = 1.
    """

    def __init__(self, stage: Stage = -1) -> None:
        super().__init__()
        self.stage = stage

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])
        widths = student.features[self.s].shape[1], teacher.features[self.t].shape[1]
        self.wide = widths[0] > widths[1]
        self.weight = nn.Parameter(torch.randn(max(widths), min(widths)))

    def projection(self) -> Tensor:
        """P [C_t, C_s]. The sign of R's diagonal is made positive: Q is then a smooth function of the weight."""
        q, r = torch.linalg.qr(self.weight)
        q = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
        return q.T if self.wide else q

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = student.features[self.s].mean((2, 3)), teacher.features[self.t].mean((2, 3))
        return {"vkd": F.smooth_l1_loss(F.linear(s, self.projection()), F.layer_norm(t, t.shape[1:]))}

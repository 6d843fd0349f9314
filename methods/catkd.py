"""Class attention transfer: where each class shows, map by map."""

import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Count
from kdbench.method.functional import class_maps, to_grid, unit
from kdbench.method.stages import needs_class_maps

NEEDS = ("pooled_map", "embedding", "classifier")


@register_method("catkd", needs=NEEDS, paper="https://arxiv.org/abs/2304.12777", year=2023, family="maps")
class CATKD(Method):
    """MSE of the class activation maps (Guo et al., section 3): the classifier at every place of the map
    that is pooled for it.

    Maps are average-pooled to `grid` x `grid` and each class's map is divided by its norm; `normalise: false` leaves
    that out, as the authors do for nets of one kind (weights from 0.7, resnet56, to 15, resnet32x4). With it weights
    are large: 600 for resnet32x4 -> ShuffleNetV2 with grid 4.
    """

    def __init__(self, grid: Count = 2, normalise: bool = True) -> None:
        super().__init__()
        self.grid, self.normalise = grid, normalise

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        needs_class_maps(student, self.grid, "student")
        needs_class_maps(teacher, self.grid, "teacher")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"catkd": self.distance(self.maps(student), self.maps(teacher))}

    def maps(self, outputs: Outputs) -> Tensor:  # [B, K, grid, grid]
        assert outputs.classifier is not None
        assert outputs.pooled_map is not None
        return class_maps(outputs.pooled_map, outputs.classifier, self.grid)

    def distance(self, s: Tensor, t: Tensor) -> Tensor:
        """Between class maps of any size, [B, K, H, W]."""
        s, t = (to_grid(x, (self.grid, self.grid)).flatten(2) for x in (s, t))
        return F.mse_loss(unit(s), unit(t)) if self.normalise else F.mse_loss(s, t)

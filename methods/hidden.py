"""Hidden states: the student's tokens, linearly projected, meet the teacher's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import mean_at, pool_to_smaller
from kdbench.method.stages import pair_layers, same_kind


@register_method("hidden", needs="features", paper="https://arxiv.org/abs/1909.10351", year=2020, family="transformers",
                 sequences=True)  # fmt: skip
class HiddenStates(Method):
    """Sum over `layers` of MSE(W h_s, h_t), W a trained linear map of the channels (TinyBERT, eq. 8).

    All layers of the student (None), each with the teacher's at the same share of depth: TinyBERT's uniform mapping.
    The mean is over all places and channels; of maps on different grids the larger is average-pooled. Published for
    language: no weight for CIFAR-100.
    """

    def __init__(self, layers: tuple[Stage, ...] | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.project = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_layers(student.features, teacher.features, self.layers, "feature maps")
        for place_s, place_t in self.pairs:
            s, t = student.features[place_s], teacher.features[place_t]
            same_kind(s, t)
            if s.ndim == 4:
                self.project.append(nn.Conv2d(s.shape[1], t.shape[1], 1, bias=False))
            else:
                self.project.append(nn.Linear(s.shape[2], t.shape[2], bias=False))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for project, (place_s, place_t) in zip(self.project, self.pairs, strict=True):
            s, t = student.features[place_s], teacher.features[place_t]
            if s.ndim == 4:
                s, t = pool_to_smaller(s, t)
                losses.append(F.mse_loss(project(s), t))
            else:
                losses.append(mean_at((project(s) - t).square().mean(2), student.mask))
        return {"hidden": torch.stack(losses).sum()}

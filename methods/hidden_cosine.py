"""DistilBERT's third loss: the student's hidden states point where the teacher's do."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import mean_at, places_of, pool_to_smaller
from kdbench.method.stages import pair_stages, same_kind


@register_method(
    "hidden_cosine",
    needs="features",
    paper="https://arxiv.org/abs/1910.01108",
    year=2019,
    family="transformers",
    sequences=True,
)
class HiddenCosine(Method):
    """Sum over `layers` of the mean over all places of 1 - cos(W h_s, h_t) (Sanh et al., section 3; the last layer).

    W is a trained linear map where the widths differ, and nothing where they do not, as in the paper. Of maps on
    different grids the larger is average-pooled. DistilBERT's triple loss is 5 KD (T = 2) + 2 masked-language modelling
    + 1 of this; fine-tuning has the task's cross-entropy in the place of the second.
    """

    def __init__(self, layers: tuple[Stage, ...] = (-1,)) -> None:
        super().__init__()
        self.layers = layers
        self.project = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.layers)
        for place_s, place_t in self.pairs:
            s, t = student.features[place_s], teacher.features[place_t]
            same_kind(s, t)
            widths = places_of(s).shape[2], places_of(t).shape[2]
            self.project.append(nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for project, (place_s, place_t) in zip(self.project, self.pairs, strict=True):
            s, t = student.features[place_s], teacher.features[place_t]
            if s.ndim == 4:
                s, t = pool_to_smaller(s, t)
            cosine = F.cosine_similarity(project(places_of(s)), places_of(t), dim=2)
            losses.append(1 - mean_at(cosine, student.mask))
        return {"hidden_cosine": torch.stack(losses).sum()}

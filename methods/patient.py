"""Patient knowledge distillation (PKD): the student follows the teacher's layers, not its last one alone."""

from typing import Literal

import torch
from torch import Tensor, nn

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import unit
from kdbench.method.stages import pair_stages


@register_method(
    "patient",
    needs="features",
    paper="https://arxiv.org/abs/1908.09355",
    year=2019,
    family="transformers",
    sequences=True,
)
class Patient(Method):
    """Mean over layers, samples and entries of (c_s / |c_s| - c_t / |c_t|)^2, c a layer's vector (Sun et al., eq. 7).

    c is what stands at the first place of a sequence ([CLS]), or the mean of a map. The layers are all of the student's
    but its last, which the logits speak for; the teacher's are those at the same share of depth (`map: skip`, the
    paper's better one) or its last ones before the end (`last`). `layers` names the student's instead. Where widths
    differ a trained linear map of c_s comes first; the paper has equal ones. The mean over entries is the authors'
    code, with weights of 10 to 1000; `form: paper` sums over layers and entries.
    """

    def __init__(
        self,
        layers: tuple[Stage, ...] | None = None,
        map: Literal["skip", "last"] = "skip",
        form: Literal["code", "paper"] = "code",
    ) -> None:
        super().__init__()
        self.layers, self.map, self.form = layers, map, form
        self.project = nn.ModuleList()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        count = len(student.features)
        layers = self.layers if self.layers is not None else tuple(range(-count, -1))
        if not layers:
            raise Inapplicable(f"needs layers before the last; the student has {count}")
        self.pairs = pair_stages(student.features, teacher.features, layers)
        if self.map == "last":
            self.pairs = [(s, len(teacher.features) - count + s) for s, _ in self.pairs]
            if min(t for _, t in self.pairs) < 0:
                raise Inapplicable(f"needs a teacher as deep as its student; it has {len(teacher.features)} layers")
        for s, t in self.pairs:
            widths = vector(student.features[s]).shape[1], vector(teacher.features[t]).shape[1]
            self.project.append(nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        losses = []
        for project, (s, t) in zip(self.project, self.pairs, strict=True):
            difference = unit(project(vector(student.features[s]))) - unit(vector(teacher.features[t]))
            square = difference.square()
            losses.append(square.mean() if self.form == "code" else square.sum(1).mean())
        total = torch.stack(losses)
        return {"patient": total.mean() if self.form == "code" else total.sum()}


def vector(x: Tensor) -> Tensor:
    """[B, L, D] -> [B, D], the first place; [B, C, H, W] -> [B, C], the mean."""
    return x[:, 0] if x.ndim == 3 else x.mean((2, 3))

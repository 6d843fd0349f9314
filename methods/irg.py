"""Instance relationship graph: vertices, edges and how the edges change from stage to stage."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Stage
from kdbench.method.functional import distances, rows
from kdbench.method.stages import embeddings, pair_stages

EPS = 1e-12


@register_method(
    "irg",
    needs=("logits", "embedding", "features"),
    paper="https://openaccess.thecvf.com/content_CVPR_2019/html/"
    "Liu_Knowledge_Distillation_via_Instance_Relationship_Graph_CVPR_2019_paper.html",
    year=2019,
    family="relations",
)
class IRG(Method):
    """With E(x) the squared distances between the rows over their largest, and two `stages` (Liu et al., section 3):

    `form: edges` (default, SemCKD's table: 1 CE + 1 KD, T = 4, + 0.005 of this): `edge` MSE(E(s), E(t)) + `vertex`
    MSE(s, t) of the embeddings (where their widths agree) + `transform` (MSE(E(s_1), E(s_2)) - MSE(E(t_1), E(t_2)))^2
    of the stages. `form: pictures` (KD-Zoo, nearer to the paper; its weights: 0.1, 5, 5): the vertices are logits;
    edges are averaged over both stages and the embedding; the transformation is one number per picture, the squared
    distance between its two stages (brought to the smaller channels and grid) over the batch's largest.
    """

    def __init__(
        self,
        vertex: NonNegative = 1.0,
        edge: NonNegative = 1.0,
        transform: NonNegative = 1.0,
        stages: tuple[Stage, Stage] = (-3, -2),
        form: Literal["edges", "pictures"] = "edges",
    ) -> None:
        super().__init__()
        self.vertex, self.edge, self.transform = vertex, edge, transform
        self.stages, self.form = stages, form

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.features, teacher.features, self.stages)
        if len({s for s, _ in self.pairs}) < 2 or len({t for _, t in self.pairs}) < 2:
            raise Inapplicable("needs two different stages of each net")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s_maps = [student.features[s] for s, _ in self.pairs]
        t_maps = [teacher.features[t] for _, t in self.pairs]
        vectors = embeddings(student, teacher)
        losses: dict[str, Tensor] = {}
        if self.form == "edges":
            if vectors[0].shape == vectors[1].shape:
                losses["irg_vertex"] = self.vertex * F.mse_loss(*vectors)
            losses["irg_edge"] = self.edge * F.mse_loss(edges(vectors[0]), edges(vectors[1]))
            change = edge_change(*s_maps) - edge_change(*t_maps)
            losses["irg_transform"] = self.transform * change.square()
        else:
            losses["irg_vertex"] = self.vertex * F.mse_loss(student.logits, teacher.logits)
            pairs = [*zip(s_maps, t_maps, strict=True), vectors]
            losses["irg_edge"] = self.edge * torch.stack([F.mse_loss(edges(s), edges(t)) for s, t in pairs]).mean()
            losses["irg_transform"] = self.transform * F.mse_loss(changes(*s_maps), changes(*t_maps))
        return losses


def edges(x: Tensor) -> Tensor:  # [B, ...] -> [B, B]
    d = distances(rows(x), squared=True)
    return d / (d.max() + EPS)


def edge_change(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(edges(a), edges(b))


def changes(a: Tensor, b: Tensor) -> Tensor:
    """Two maps [B, C, H, W] -> [B]: the squared distance between them, over the largest of the batch."""
    channels, height, width = (min(m, n) for m, n in zip(a.shape[1:], b.shape[1:], strict=True))
    smaller = (channels, height, width)
    # Neighbouring channels are averaged like neighbouring positions: B stands in the place of channels here.
    a, b = (x if x.shape[1:] == smaller else F.adaptive_avg_pool3d(x, smaller) for x in (a, b))
    d = (a - b).square().flatten(1).sum(1)
    return d / (d.max() + EPS)

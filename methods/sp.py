"""Similarity-preserving distillation: which pictures of a batch excite the same features."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import gram, rows, unit
from kdbench.method.stages import pair_stages


@register_method("sp", needs="features", paper="https://arxiv.org/abs/1907.09682", year=2019, family="relations",
                 sequences=True)  # fmt: skip
class SimilarityPreserving(Method):
    """||G_s - G_t||_F^2 / B^2, with G = F F^T of the flattened maps, rows unit (Tung and Mori, eq. 3-4).

    Weight in the CRD table: 3000.
    """

    def __init__(self, stage: Stage = -1) -> None:
        super().__init__()
        self.stage = stage

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        [(self.s, self.t)] = pair_stages(student.features, teacher.features, [self.stage])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = student.features[self.s], teacher.features[self.t]
        difference = unit(gram(rows(s))) - unit(gram(rows(t)))
        return {"sp": difference.square().mean()}

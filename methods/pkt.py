"""Probabilistic knowledge transfer: the similarities of the pictures of a batch, as a distribution per picture."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive
from kdbench.method.functional import gram
from kdbench.method.stages import embeddings


@register_method("pkt", needs="embedding", paper="https://arxiv.org/abs/1803.10837", year=2018, family="relations")
class PKT(Method):
    """mean_ij P_ij log((P_ij + eps) / (Q_ij + eps)), P of the teacher, Q of the student.

    Rows of P and Q: (cosine + 1)/2 over its sum (Passalis and Tefas, section 3). The published tables rest on this
    mean over B*B entries (weight 30000); the paper's sum over each row is B times as large.
    """

    def __init__(self, eps: Positive = 1e-7) -> None:
        super().__init__()
        self.eps = eps

    def similarities(self, x: Tensor) -> Tensor:  # [B, D] -> [B, B], rows sum to 1
        x = x / (x.norm(dim=1, keepdim=True) + self.eps)
        kernel = ((gram(x) + 1) / 2).clamp(min=0)
        return kernel / kernel.sum(1, keepdim=True)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        q, p = self.similarities(s), self.similarities(t)
        return {"pkt": (p * ((p + self.eps) / (q + self.eps)).log()).mean()}

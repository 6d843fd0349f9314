"""A simple recipe: one linear projector, batch norm, and the logarithm of a high power of the difference."""

from typing import Literal

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Positive
from kdbench.method.stages import embeddings, same_width


@register_method("srd", needs="embedding", paper="https://arxiv.org/abs/2303.11098", year=2024, family="relations")
class SRD(Method):
    """log sum_{b,i} |z_s - z_t|^p, z standardised over the batch per feature, s through a linear projector
    (Miles and Mikolajczyk, section 3).

    The authors' ImageNet code gives it weight 2 beside KD at T = 1. `adapter: none, norm: none` is torchdistill's form.
    """

    def __init__(
        self,
        p: Positive = 4.0,
        adapter: Literal["linear", "none"] = "linear",
        norm: Literal["batch", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.p, self.kind, self.norm = p, adapter, norm
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        s, t = embeddings(student, teacher)
        if self.kind == "linear":
            self.adapter = nn.Linear(s.shape[1], t.shape[1])
        else:
            same_width(s, t)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        s = self.adapter(s)
        if self.norm == "batch":
            s, t = whiten(s), whiten(t)
        power = (s - t).abs().pow(self.p).sum()
        return {"srd": power.clamp(min=1e-12).log()}  # a perfect student would be at log 0


def whiten(x: Tensor) -> Tensor:
    """Batch norm of [B, D] without a trained part and without running averages (eps 1e-4); 0 for B = 1."""
    x = x - x.mean(0)
    return x / (x.square().mean(0) + 1e-4).sqrt()

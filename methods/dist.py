"""DIST: the student keeps the teacher's order, not its exact probabilities."""

from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive


@register_method("dist", needs="logits", paper="https://arxiv.org/abs/2205.10536", year=2022, family="logits")
class DIST(Method):
    """T^2 [beta (1 - mean_b r(q_b, p_b)) + gamma (1 - mean_k r(q_:k, p_:k))], r Pearson's correlation (section 4).

    p, q: softmaxes at T of teacher and student; first each picture over the classes, then each class over the batch.
    Weight on CIFAR-100: 2, with T = 4.
    """

    def __init__(self, temperature: Positive = 4.0, beta: NonNegative = 1.0, gamma: NonNegative = 1.0) -> None:
        super().__init__()
        self.temperature, self.beta, self.gamma = temperature, beta, gamma

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        q, p = ((x.logits / self.temperature).softmax(-1) for x in (student, teacher))
        scale = self.temperature**2
        return {
            "dist_inter": scale * self.beta * (1 - correlation(q, p).mean()),
            "dist_intra": scale * self.gamma * (1 - correlation(q.T, p.T).mean()),
        }


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of each row of a and b; 0 for a constant row (every column, when B = 1)."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + 1e-8)

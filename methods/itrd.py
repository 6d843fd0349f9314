"""Information-theoretic representation distillation: correlation of features and mutual information of batches."""

from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import NonNegative, Positive
from kdbench.method.functional import gram, unit
from kdbench.method.stages import embeddings


@register_method("itrd", needs="embedding", paper="https://arxiv.org/abs/2112.00459", year=2022, family="relations")
class ITRD(Method):
    """`corr` * log2 sum_i |c_i - 1|^(2 alpha) + `mutual` * sum_ij [(G_s/tr G_s)^2 - (G_st/tr G_st)^2], weight 1
    (Miles et al., section 3).

    c_i: correlation of feature i between student (through a linear projector) and teacher over the batch, G: cosines
    of the batch's pictures, G_st = G_s * G_t. The student's are those of the projected embedding; where both widths
    are equal, of the embedding itself, while the correlation stays with the projected one (the authors' code). There
    the sum over B pictures is divided by B, the variance by B - 1. The authors' commands have alpha 1.01 where both
    nets are of a kind, else 1.5 (default), and mutual 1 (their code's own default, 0.05, is in no command).
    """

    def __init__(self, corr: NonNegative = 2.0, mutual: NonNegative = 1.0, alpha: Positive = 1.5) -> None:
        super().__init__()
        self.corr, self.mutual, self.alpha = corr, mutual, alpha
        self.adapter: nn.Module = nn.Identity()

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        s, t = embeddings(student, teacher)
        self.adapter = nn.Linear(s.shape[1], t.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = embeddings(student, teacher)
        projected = self.adapter(s)
        apart = ((scores(projected) * scores(t)).mean(0) - 1).abs().pow(2 * self.alpha).sum()
        g_s, g_t = gram(unit(s if s.shape == t.shape else projected)), gram(unit(t))
        return {
            "itrd_correlation": self.corr * apart.clamp(min=1e-12).log2(),
            "itrd_mutual": self.mutual * (energy(g_s) - energy(g_s * g_t)),
        }


def scores(x: Tensor) -> Tensor:
    """[B, D] standardised over the batch, variance with divisor B - 1; 0 where a feature does not vary."""
    x = x - x.mean(0)
    variance = x.square().sum(0) / max(len(x) - 1, 1)
    return x / variance.clamp(min=1e-12).sqrt()


def energy(g: Tensor) -> Tensor:
    """Sum of squares of a [B, B] kernel of trace 1: the argument of Renyi's entropy of order 2."""
    return (g / g.trace().clamp(min=1e-12)).square().sum()

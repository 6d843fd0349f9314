"""MiniLM's relations: how alike the values of two tokens are, instead of where a token looks."""

from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Count, Stage
from kdbench.method.functional import mean_at, soft_kl, soft_kl_over
from kdbench.method.stages import pair_stages, same_heads, same_places


@register_method(
    "value_relations",
    needs=("queries", "keys", "values"),
    paper="https://arxiv.org/abs/2002.10957",
    year=2020,
    family="transformers",
)
class ValueRelations(Method):
    """Sum over `of` and `layers` of mean KL(R_t || R_s), R = softmax(V V^T / sqrt(d)) for every head (MiniLM, 3.2).

    The mean is over pictures, heads and tokens; the last layer only, as in the paper. MiniLM is this and
    `attn: {heads: matched}`, weight 1 each. By default the nets' own heads, equally many. With `heads` n the heads are
    joined and split into n: MiniLMv2 (https://arxiv.org/abs/2012.15828), which takes `of: [queries, keys, values]`.
    Published for language: no weight for CIFAR-100.
    """

    def __init__(
        self,
        of: tuple[Literal["queries", "keys", "values"], ...] = ("values",),
        layers: tuple[Stage, ...] = (-1,),
        heads: Count | None = None,
    ) -> None:
        super().__init__()
        self.of, self.layers, self.heads = of, layers, heads

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.values, teacher.values, self.layers, "attention")
        for name in self.of:
            for place_s, place_t in self.pairs:
                s, t = getattr(student, name)[place_s], getattr(teacher, name)[place_t]
                same_places(s, t)
                if self.heads is None:
                    same_heads(s, t)
                for width in (s.shape[1] * s.shape[3], t.shape[1] * t.shape[3]):
                    if width % (self.heads or 1):
                        raise Inapplicable(f"needs widths that {self.heads} heads divide; found {width}")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        both = {name: (getattr(student, name), getattr(teacher, name)) for name in self.of}
        return {f"relations_{name}": self.loss(s, t, student.mask) for name, (s, t) in both.items()}

    def loss(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        scores = [(self.scores(student[s]), self.scores(teacher[t])) for s, t in self.pairs]
        if mask is None:
            return torch.stack([soft_kl(s, t).mean() for s, t in scores]).sum()
        kept = mask[:, None, None, :]
        return torch.stack([mean_at(soft_kl_over(s, t, kept, 1.0), mask) for s, t in scores]).sum()

    def scores(self, x: Tensor) -> Tensor:  # [B, heads, L, d] -> [B, heads or n, L, L]
        if self.heads is not None:
            x = x.transpose(1, 2).flatten(2).unflatten(2, (self.heads, -1)).transpose(1, 2)
        return x @ x.transpose(-2, -1) * x.shape[-1] ** -0.5

"""Attention scores of transformers: how strongly every token asks for every other, before the softmax."""

from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import mse_between
from kdbench.method.stages import pair_layers, same_heads, same_places


@register_method(
    "attention_scores",
    needs=("queries", "keys"),
    paper="https://arxiv.org/abs/1909.10351",
    year=2020,
    family="transformers",
)
class AttentionScores(Method):
    """Sum over `layers` of MSE(Q_s K_s^T / sqrt(d), Q_t K_t^T / sqrt(d)), head by head (TinyBERT, eq. 7).

    All layers of the student (None), each with the teacher's at the same share of depth: TinyBERT's uniform mapping.
    `heads: matched` (default, the paper's) needs equally many; `mean` averages both over the heads first. TinyBERT adds
    `hidden` at weight 1 each; published for language: no weight for CIFAR-100.
    """

    def __init__(self, layers: tuple[Stage, ...] | None = None, heads: Literal["matched", "mean"] = "matched") -> None:
        super().__init__()
        self.layers, self.heads = layers, heads

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_layers(student.queries, teacher.queries, self.layers, "attention")
        for s, t in self.pairs:
            same_places(student.keys[s], teacher.keys[t])
            if self.heads == "matched":
                same_heads(student.queries[s], teacher.queries[t])

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        both = [(self.scores(student, s), self.scores(teacher, t)) for s, t in self.pairs]
        layers = [mse_between(s, t, student.mask) for s, t in both]
        return {"attention_scores": torch.stack(layers).sum()}

    def scores(self, outputs: Outputs, layer: int) -> Tensor:  # -> [B, heads, L, L], or [B, L, L]
        queries, keys = outputs.queries[layer], outputs.keys[layer]
        found = queries @ keys.transpose(-2, -1) * keys.shape[-1] ** -0.5
        return found.mean(1) if self.heads == "mean" else found

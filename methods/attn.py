"""Attention-map distillation between transformers: where every token looks."""

from typing import Literal

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Stage
from kdbench.method.functional import mean_at, mse_between
from kdbench.method.stages import pair_stages


@register_method("attn", needs="attention", paper="https://arxiv.org/abs/2002.10957", year=2020, family="transformers")
class AttentionMaps(Method):
    """Sum over `layers` of the mean over pictures, heads and queries of KL(A_t || A_s) (MiniLM, eq. 5; its last layer).

    `form: mse`: the mean squared difference (after TinyBERT, which compares the scores before the softmax).
    `heads: mean` (default) averages both maps over the heads first; `matched` compares head by head.
    """

    def __init__(
        self,
        layers: tuple[Stage, ...] = (-1,),
        form: Literal["kl", "mse"] = "kl",
        heads: Literal["mean", "matched"] = "mean",
    ) -> None:
        super().__init__()
        self.layers, self.form, self.heads = layers, form, heads

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        self.pairs = pair_stages(student.attention, teacher.attention, self.layers, "attention maps")
        for place_s, place_t in self.pairs:
            s, t = student.attention[place_s].shape, teacher.attention[place_t].shape
            if s[2:] != t[2:]:
                shapes = f"student has {s[2]} x {s[3]}, teacher {t[2]} x {t[3]}"
                raise Inapplicable(f"needs attention over equally many tokens; {shapes}")
            if self.heads == "matched" and s[1] != t[1]:
                raise Inapplicable(f"needs equally many heads to match them; student has {s[1]}, teacher {t[1]}")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        layers = [self.layer(student.attention[s], teacher.attention[t], student.mask) for s, t in self.pairs]
        return {"attn": torch.stack(layers).sum()}

    def layer(self, s: Tensor, t: Tensor, mask: Tensor | None) -> Tensor:  # [B, heads, queries, keys] -> scalar
        if self.heads == "mean":
            s, t = s.mean(1), t.mean(1)
        if self.form == "mse":
            return mse_between(s, t, mask)
        # A softmax may round to 0: t log t is 0 there, and log s is kept finite.
        return mean_at((torch.xlogy(t, t) - t * s.clamp(min=1e-12).log()).sum(-1), mask)

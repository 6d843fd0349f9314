"""Multi-level logit distillation: each picture, the pictures of a batch, the classes, at five temperatures."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive
from kdbench.method.functional import gram, soft_kl

PAPER = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"


@register_method("mlkd", needs=("logits", "second"), paper=PAPER, year=2023, family="logits")
class MLKD(Method):
    """Sum over `temperatures` of `instance` * KD on both views + `batch` * L_b + `classes` * L_c on the plain view.

    P, Q: softmaxes [B, K] of teacher and student; L_b = ||P P^T - Q Q^T||^2 / B, L_c = ||P^T P - Q^T Q||^2 / K (Jin et
    al., section 3). Only pictures that the teacher is not the surest of (at most the median) should count, and classes
    likewise. `masks: code` (default, the published numbers'): as released, the scalars are multiplied by the masks'
    means, and on the second view the temperatures from the fourth on see the first view's logits; `entries`: pictures
    and classes are masked one by one, and the second view is used throughout (what the paper means); `none`.
    0.1 CE + 0.1 CE on the second view (`ce_second`) + 0.9 MLKD.

    The published numbers come from 480 epochs (shuffle nets up to 960) at lr 0.025 (mobile students 0.0025), with crop,
    flip and RandAugment(2, 10) as the second view. Ours is drawn on the device: crop, flip, colours by up to 40% and a
    square cut out. What that changes is not known; a row here is not a reproduction of theirs.
    """

    def __init__(
        self,
        temperatures: tuple[Positive, ...] = (4.0, 3.0, 5.0, 2.0, 6.0),
        instance: NonNegative = 1.0,
        batch: NonNegative = 1.0,
        classes: NonNegative = 1.0,
        masks: Literal["code", "entries", "none"] = "code",
    ) -> None:
        super().__init__()
        self.temperatures, self.masks = temperatures, masks
        self.instance, self.batch, self.classes = instance, batch, classes

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        s, t = student.logits, teacher.logits
        p = t.softmax(-1)
        unsure, rare = at_most_median(p.amax(-1)), at_most_median(p.sum(0))  # [B], [K]
        if self.masks == "none":
            unsure, rare = torch.ones_like(unsure), torch.ones_like(rare)
        elif self.masks == "code":
            unsure, rare = unsure.mean().expand_as(unsure), rare.mean().expand_as(rare)
        losses: dict[str, list[Tensor]] = {"instance": [], "second": [], "batch": [], "classes": []}
        for place, temperature in enumerate(self.temperatures):
            losses["instance"].append(self.instance * temperature**2 * (unsure * soft_kl(s, t, temperature)).mean())
            if "second" in student.views and "second" in teacher.views:
                first = self.masks == "code" and place >= 3
                views = (s, t) if first else (student.views["second"].logits, teacher.views["second"].logits)
                losses["second"].append(self.instance * temperature**2 * soft_kl(*views, temperature).mean())
            q, p = (s / temperature).softmax(-1), (t / temperature).softmax(-1)
            losses["batch"].append(self.batch * self.between(q, p, unsure))
            losses["classes"].append(self.classes * self.between(q.T, p.T, rare))
        return {f"mlkd_{name}": torch.stack(terms).sum() for name, terms in losses.items() if terms}

    def between(self, q: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        """||Q Q^T - P P^T||^2 over the number of rows, rows and columns both masked."""
        square = (gram(q) - gram(p)).square()
        # In the released form every entry of the mask is its mean m, which multiplies the scalar once, not twice.
        masked = mask[:, None] * square if self.masks == "code" else mask[:, None] * square * mask
        return masked.sum() / len(q)


def at_most_median(x: Tensor) -> Tensor:
    """1 where x is at most its median (the mean of the middle two), else 0."""
    ordered = x.sort().values
    median = (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
    return (x <= median).to(x.dtype)


@register_method("ce_second", needs=(), student_needs="second", family="labels")
class SecondCrossEntropy(Method):
    """Mean cross-entropy on the second, strongly augmented view: a part of the objectives that train on two views."""

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {"ce_second": F.cross_entropy(student.views["second"].logits, batch.labels)}

"""Curriculum temperature: the temperature is learnt, and against the student."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive, Share
from kdbench.method.functional import soft_kl


@register_method("ctkd", needs="logits", paper="https://arxiv.org/abs/2211.16231", year=2023, family="logits")
class CTKD(Method):
    """KD at T = `start` + `end` * sigmoid(theta), theta one trained number (Li et al., section 3; global temperature).

    theta climbs the loss: its gradient is times lambda, from 0 to -`strength` along a cosine over the first `ramp` of
    the training (the authors' 10 of 240 epochs), then constant. CIFAR-100: 0.1 CE + 0.9 CTKD. lambda rises at every
    step, theirs at every epoch: apart by one epoch's rise at most. theta is under weight decay, as theirs.
    """

    def __init__(
        self, start: Positive = 1.0, end: Positive = 20.0, strength: NonNegative = 1.0, ramp: Share = 10 / 240
    ) -> None:
        super().__init__()
        self.start, self.end, self.strength, self.ramp = start, end, strength, ramp
        self.theta = nn.Parameter(torch.ones(1))

    def reversal(self, progress: Tensor) -> Tensor:
        """lambda at `progress`, both []."""
        done = (progress / self.ramp).clamp(max=1.0) if self.ramp else torch.ones_like(progress)
        return -self.strength * (1 - torch.cos(math.pi * done)) / 2

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        theta = ScaleGradient.apply(self.theta, self.reversal(batch.progress))
        temperature = self.start + self.end * torch.sigmoid(theta)
        kl = soft_kl(student.logits, teacher.logits, temperature).mean()
        return {"ctkd": (temperature**2).squeeze() * kl}


class ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number (negative: reversed)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None

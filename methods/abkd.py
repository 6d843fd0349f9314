"""ABKD: an alpha-beta divergence between the forward and the reverse KL of knowledge distillation."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import Positive

Exponent = Annotated[float, Field(allow_inf_nan=False)]


@register_method("abkd", needs="logits", paper="https://arxiv.org/abs/2505.04560", year=2025, family="logits")
class ABKD(Method):
    """mean_b sum_k [a/(a+b) p^(a+b) + b/(a+b) q^(a+b) - p^a q^b] / (a b), p, q: softmaxes at T of teacher and student.

    a: `alpha`, b: `beta` (Wang et al.). a = 1, b -> 0 is KL(p || q), a -> 0, b = 1 is KL(q || p); where
    a, b or a + b is 0 the limit is taken (Cichocki et al. 2011; the authors' code divides some limits by a power of a
    or b less). Without T^2, as in the authors' code. Theirs for resnet56-resnet20: alpha 0.8, beta 0.3, weight 32.
    """

    def __init__(self, alpha: Exponent = 0.8, beta: Exponent = 0.3, temperature: Positive = 4.0) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        log_q, log_p = ((x.logits / self.temperature).log_softmax(-1) for x in (student, teacher))
        return {"abkd": divergence(log_q, log_p, self.alpha, self.beta).sum(-1).mean()}


def divergence(log_q: Tensor, log_p: Tensor, alpha: float, beta: float) -> Tensor:
    """D_AB(p || q), class by class. Powers are taken as exponentials, so a probability of 0 stays finite."""
    both = alpha + beta
    if alpha and beta and both:
        powers = alpha / both * (both * log_p).exp() + beta / both * (both * log_q).exp()
        return (powers - (alpha * log_p + beta * log_q).exp()) / (alpha * beta)
    ratio = log_p - log_q
    if alpha and both:  # beta = 0
        return ((alpha * log_p).exp() * (alpha * ratio - 1) + (alpha * log_q).exp()) / alpha**2
    if beta and both:  # alpha = 0
        return ((beta * log_q).exp() * (-beta * ratio - 1) + (beta * log_p).exp()) / beta**2
    if alpha:  # beta = -alpha
        return (torch.expm1(alpha * ratio) - alpha * ratio) / alpha**2
    return ratio.square() / 2

"""LumiNet: logits are first set against the other pictures of the batch, class by class."""

import torch
from torch import Tensor

from kdbench import Batch, Method, Outputs, register_method
from kdbench.method.contract import NonNegative, Positive, Share
from kdbench.method.functional import soft_kl, warm_up


@register_method("luminet", needs="logits", paper="https://arxiv.org/abs/2310.03669", year=2023, family="logits")
class LumiNet(Method):
    """`alpha`^2 mean_b KL(softmax(h_t/T) || softmax(h_s/T)), h = (z - mean_b z) / sqrt(var_b z + 1e-5) for each class.

    h is the paper's perception (Hossain et al.), with the variance's divisor B. As in the authors' code,
    on which their tables rest, alpha^2 stands where KD has T^2, and the loss is ramped up over the first `warmup` of
    training (20 of 240 epochs). Their settings on CIFAR-100, (alpha, T, weight of CE): resnet32x4-resnet8x4 (34, 4, 2),
    wrn_40_2-shufflenetv1 (35, 4, 2), vgg13-vgg8 (11, 2, 1.3), wrn_40_2-wrn_40_1 (75, 8, 1), mobile students (70, 8, 2).
    """

    def __init__(self, alpha: NonNegative = 34.0, temperature: Positive = 4.0, warmup: Share = 20 / 240) -> None:
        super().__init__()
        self.alpha, self.temperature, self.warmup = alpha, temperature, warmup

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        kl = soft_kl(perception(student.logits), perception(teacher.logits), self.temperature).mean()
        return {"luminet": warm_up(batch.progress, self.warmup) * self.alpha**2 * kl}


def perception(logits: Tensor) -> Tensor:
    """Every class standardised over the batch, [B, K] -> [B, K]; all 0 for a batch of one picture."""
    centred = logits - logits.mean(0)
    return centred * torch.rsqrt(centred.square().mean(0) + 1e-5)

"""What a net is worth on pictures it did not train on.

All members of a cohort are evaluated in one pass; sums stay on the device and are read once at the end.

Corrupted pictures are not among them. The field's 15 corruptions and their severities are in one library,
`imagecorruptions`, whose last release (1.1.2) neither imports without an old setuptools nor draws glass blur, fog or
Gaussian blur with NumPy 2 and today's scikit-image; those of other libraries do not compare with published numbers.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.vision.batches import Images

BATCH = 500
ECE_BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599


class Scores:
    """Sums of one net's scores over batches."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)  # count, top-1, top-5, NLL, agreement
        self.taught = False  # was there a teacher to agree with?
        self.bins = torch.zeros(3, ECE_BINS, dtype=torch.float64, device=device)  # count, confidence, correct

    def add(self, logits: Tensor, target: Tensor, teacher: Tensor | None) -> None:
        """logits [B, K] in fp32, target [B], the teacher's predictions [B]."""
        self.taught |= teacher is not None
        confidence, predicted = logits.softmax(1).max(1)
        correct = predicted == target
        top5 = (logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]).any(1)
        agree = predicted == teacher if teacher is not None else torch.zeros_like(correct)
        nll = F.cross_entropy(logits, target, reduction="sum")
        parts = [torch.full_like(nll, len(target)), correct.sum(), top5.sum(), nll, agree.sum()]
        self.sums += torch.stack([p.double() for p in parts])
        place = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
        ones = torch.ones_like(confidence, dtype=torch.float64)
        for row, values in enumerate((ones, confidence.double(), correct.double())):
            self.bins[row].index_add_(0, place, values)

    def result(self) -> dict[str, float]:
        """Accuracies and agreement in percent, NLL in nats, ECE in 0..1."""
        count, top1, top5, nll, agreement = self.sums.tolist()
        ece = float((self.bins[1] - self.bins[2]).abs().sum()) / count
        percent = {"top1": top1, "top5": top5} | ({"agreement": agreement} if self.taught else {})
        return {name: 100 * value / count for name, value in percent.items()} | {"nll": nll / count, "ece": ece}


@torch.no_grad()
def evaluate(
    nets: Sequence[nn.Module], images: Images, precision: str, teacher: Tensor | None = None
) -> list[dict[str, float]]:
    """Scores of every net on all pictures. `teacher`: its predictions [N], for the agreement.

    Nets are left in the mode they came in.
    """
    modes = [net.training for net in nets]
    scores = [Scores(images.targets.device) for _ in nets]
    for net in nets:
        net.eval()
    for start in range(0, len(images), BATCH):
        batch, target = images.plain(start, start + BATCH)
        taught = teacher[start : start + BATCH] if teacher is not None else None
        for net, score in zip(nets, scores, strict=True):
            with autocast(batch.device, precision):
                logits = net(batch).logits
            score.add(logits.float(), target, taught)
    for net, mode in zip(nets, modes, strict=True):
        net.train(mode)
    return [score.result() for score in scores]


@torch.no_grad()
def predictions(net: nn.Module, images: Images, precision: str) -> Tensor:
    """The class that a net in eval mode gives each picture, [N]."""
    found = []
    for start in range(0, len(images), BATCH):
        batch, _ = images.plain(start, start + BATCH)
        with autocast(batch.device, precision):
            found.append(net(batch).logits.argmax(1))
    return torch.cat(found)


@torch.no_grad()
def class_accuracies(net: nn.Module, images: Images, precision: str, num_classes: int) -> list[float]:
    """Top-1 of every class in percent; NaN for a class without pictures. The net is left in the mode it came in."""
    mode = net.training
    correct = predictions(net.eval(), images, precision) == images.targets
    net.train(mode)
    hits = torch.bincount(images.targets, correct.double(), minlength=num_classes)
    return (100 * hits / torch.bincount(images.targets, minlength=num_classes)).tolist()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the networks; losses are computed outside of it, in fp32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

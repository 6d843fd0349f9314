"""What a net is worth on examples it did not train on.

All members of a cohort are evaluated in one pass; sums stay on the device and are read once at the end.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data import Split
from kdbench.errors import UserError
from kdbench.method.contract import Batch, Outputs
from kdbench.method.kinds import NUMBERS, kind_of
from kdbench.method.metric import METRICS, OF_NUMBERS, TOP1, Metric
from kdbench.train.group import ALONE, Group, own_part
from kdbench.train.in_turn import Spoilt, in_turn, without

BATCH = 500
MOST_NUMBERS = 2**23  # of a batch on the CPU: 500 pictures at 224 pixels would take gigabytes in every layer
ECE_BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599


class Scores:
    """Sums of one net's scores over batches."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(5, dtype=torch.float64, device=device)  # count, top-1, top-5, NLL, agreement
        self.has_teacher = False  # was there a teacher to agree with?
        self.bins = torch.zeros(3, ECE_BINS, dtype=torch.float64, device=device)  # count, confidence, correct

    def add(self, logits: Tensor, target: Tensor, teacher: Tensor | None) -> None:
        """logits [B, K] in fp32, target [B], the teacher's predictions [B]."""
        self.has_teacher |= teacher is not None
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
        percent = {"top1": top1, "top5": top5} | ({"agreement": agreement} if self.has_teacher else {})
        return {name: 100 * value / count for name, value in percent.items()} | {"nll": nll / count, "ece": ece}


class Errors:
    """Likewise where nets learn numbers: how far off they are."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # count, squared error

    def add(self, logits: Tensor, target: Tensor, teacher: Tensor | None) -> None:
        """logits [B, 1] in fp32, target [B]; a teacher's numbers are not compared."""
        error = (logits[:, 0].double() - target.double()).square().sum()
        self.sums += torch.stack([torch.full_like(error, len(target)), error])

    def result(self) -> dict[str, float]:
        """The root of the mean squared error, in the unit of the targets."""
        count, error = self.sums.tolist()
        return {"rmse": math.sqrt(error / count)}


SCORES: dict[str, type[Scores] | type[Errors]] = {"classes": Scores, "numbers": Errors}


@dataclass(frozen=True)
class Judged:
    """What one net is worth on one split. `predicted`: its class of every example [N] int64, or its number, float32."""

    scores: dict[str, float]
    predicted: Tensor

    def per_class(self, targets: Tensor, num_classes: int) -> list[float]:
        """Top-1 of every class in percent; NaN for a class without examples."""
        # Counted, not summed by weight: the latter is not deterministic on a GPU.
        hits = torch.bincount(targets[self.predicted == targets], minlength=num_classes)
        return (100 * hits.double() / torch.bincount(targets, minlength=num_classes)).tolist()


@torch.no_grad()
def evaluate(
    nets: Sequence[nn.Module],
    split: Split,
    precision: str,
    teacher: Tensor | None = None,
    group: Group = ALONE,
    metric: Metric = TOP1,
) -> list[Judged | Exception]:
    """Every net on all examples, in one pass; what a net raised, instead of its scores, where it did.

    `teacher`: its predictions [N], for the agreement. `metric`: its score comes beside those that are always computed.
    Nets are left in the mode they came in. Raises what the data do.
    """
    modes = [net.training for net in nets]
    kind = kind_of(split.targets)
    sums = [SCORES[kind.name](split.targets.device) for _ in nets]
    found: list[list[Tensor]] = [[] for _ in nets]

    def keep(place: int, batch: Batch, logits: Tensor) -> None:
        sums[place].add(logits.float(), batch.target, None if teacher is None else teacher[batch.index])
        found[place].append(kind.answers(logits))

    for net in nets:
        net.eval()
    batches = own_part(split, group).in_order(batch_size(split))
    try:
        broken = in_turn(nets, batches, partial(logits_of, precision=precision, group=group), keep, group)
    except Spoilt as spoilt:
        _back(nets, modes)
        return without(spoilt, nets, lambda others: evaluate(others, split, precision, teacher, group, metric))
    _back(nets, modes)
    return [
        broken.get(place) or _judged(sums[place].result(), torch.cat(found[place]), split, metric)
        for place in range(len(nets))
    ]


def batch_size(split: Split) -> int:
    """Of an evaluation: `BATCH`, or as many as `MOST_NUMBERS` allow (pictures of more than 74 pixels)."""
    if split.targets.device.type != "cpu":
        return BATCH
    return max(1, min(BATCH, MOST_NUMBERS // sum(math.prod(field.shape) for field in split.inputs.fields)))


def _judged(scores: dict[str, float], predicted: Tensor, split: Split, metric: Metric) -> Judged:
    asked = [METRICS[name] for name in OF_NUMBERS] if kind_of(split.targets) is NUMBERS else []
    own = {one.name: float(one.of(predicted, split.targets)) for one in (*asked, metric) if one.of is not None}
    return Judged(scores | own, predicted)


def _back(nets: Sequence[nn.Module], modes: Sequence[bool]) -> None:
    for net, mode in zip(nets, modes, strict=True):
        net.train(mode)


def evaluate_one(
    net: nn.Module, split: Split, precision: str, teacher: Tensor | None = None, metric: Metric = TOP1
) -> Judged:
    """One net on all examples. Raises what it raises."""
    [judged] = evaluate([net], split, precision, teacher, metric=metric)
    if isinstance(judged, Exception):
        raise judged
    return judged


@torch.no_grad()
def predictions(net: nn.Module, split: Split, precision: str, group: Group = ALONE) -> Tensor:
    """The class (or the number) that a net in eval mode gives each example, [N]."""
    batches, answers = own_part(split, group).in_order(batch_size(split)), kind_of(split.targets).answers
    return torch.cat([answers(logits_of(net, batch, precision, group)) for batch in batches])


def logits_of(net: nn.Module, batch: Batch, precision: str, group: Group = ALONE) -> Tensor:
    """[B, K] of a net in eval mode."""

    def compute(part: Batch) -> Outputs:
        with autocast(part.target.device, precision):
            return Outputs(net(part.inputs).logits)

    return group.forward(compute, batch).logits


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the networks; losses are computed outside of it, in fp32."""
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "fp32")


def check_precision(device: torch.device, precisions: Iterable[str]) -> None:
    """Raises UserError for fp16 on a CPU, whose kernels of it are slow or missing."""
    if device.type == "cpu" and "fp16" in precisions:
        raise UserError("precision: fp16 needs a GPU; on a CPU there are bf16 and fp32")

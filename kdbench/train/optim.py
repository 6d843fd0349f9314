"""Optimizers and learning rates."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.suite.spec import Train


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then the schedule over the epochs."""
    at = step / steps_per_epoch  # epochs done
    if at < train.warmup_epochs:
        return train.lr * (step + 1) / (train.warmup_epochs * steps_per_epoch)
    schedule = train.schedule
    if schedule.kind == "step":
        return train.lr * schedule.gamma ** sum(int(at) >= epoch for epoch in schedule.step)
    if schedule.kind == "cosine":
        share = (at - train.warmup_epochs) / (train.epochs - train.warmup_epochs)
        return train.lr * 0.5 * (1 + math.cos(math.pi * share))
    return train.lr


def make_optimizer(params: list[nn.Parameter], train: Train, model: Any = None) -> torch.optim.Optimizer:
    """Adapters follow the student's settings; weight decay holds for all, or spares what `train.no_decay` names.

    `model`: the student, which may name parameters of its own that are to be spared (class tokens, positions).
    """
    groups = [{"params": params}] if train.no_decay is None else decayed_and_spared(params, model)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.lr, weight_decay=train.weight_decay, foreach=True)
    return torch.optim.SGD(
        groups, train.lr, train.momentum, weight_decay=train.weight_decay, nesterov=train.nesterov, foreach=True
    )


def decayed_and_spared(params: list[nn.Parameter], model: Any) -> list[dict[str, Any]]:
    """timm's rule: spared are vectors and scalars, and what `model.no_weight_decay()` names."""
    names = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    own = {parameter for name, parameter in model.named_parameters() if name in names} if names else set()
    spared = [p.ndim <= 1 or p in own for p in params]
    decayed = {"params": [p for p, spare in zip(params, spared, strict=True) if not spare]}
    return [decayed, {"params": [p for p, spare in zip(params, spared, strict=True) if spare], "weight_decay": 0.0}]


def set_rate(optimizer: torch.optim.Optimizer, rate: Tensor) -> None:
    """Give the optimizer its learning rate [], float64; as a number where it can't take a tensor (on a CPU)."""
    for group in optimizer.param_groups:
        group["lr"] = rate if group.get("capturable") else float(rate)


def momentum_of(train: Train) -> float:
    return train.momentum if train.optimizer == "sgd" else 0.0

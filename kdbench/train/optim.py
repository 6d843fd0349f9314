"""Optimizers and learning rates."""

import math

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


def make_optimizer(params: list[nn.Parameter], train: Train) -> torch.optim.Optimizer:
    """One group: adapters follow the student's settings, and weight decay holds for all (as in the CRD benchmark)."""
    if train.optimizer == "adamw":
        return torch.optim.AdamW(params, lr=train.lr, weight_decay=train.weight_decay, foreach=True)
    return torch.optim.SGD(
        params, train.lr, train.momentum, weight_decay=train.weight_decay, nesterov=train.nesterov, foreach=True
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: Tensor) -> None:
    """Give the optimizer its learning rate [], float64; as a number where it can't take a tensor (on a CPU)."""
    for group in optimizer.param_groups:
        group["lr"] = rate if group.get("capturable") else float(rate)


def momentum_of(train: Train) -> float:
    return train.momentum if train.optimizer == "sgd" else 0.0

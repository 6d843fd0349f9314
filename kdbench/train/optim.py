"""Optimizers and learning rates: torch's SGD and AdamW, and timm's by their names."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError
from kdbench.suite.training import Train


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of optimizer step `step` (from 0): linear warm-up, then the schedule over the epochs."""
    if train.schedule.timm is not None:
        return timm_rate(train, step, steps_per_epoch)
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


def timm_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate that timm's schedule has at optimizer step `step` (from 0): of that step alone, so nothing to resume."""
    of = timm_schedule(train, steps_per_epoch)
    if of.t_in_epochs:
        of.step(step // steps_per_epoch)
    else:
        of.step_update(step)
    return float(of.optimizer.param_groups[0]["lr"])


@lru_cache(maxsize=64)
def timm_schedule(train: Train, steps_per_epoch: int) -> Any:
    """timm's scheduler over an optimizer of nothing."""
    from timm.scheduler import create_scheduler_v2

    assert train.schedule.timm is not None
    settings = train.schedule.timm.model_dump()
    counts = {"num_epochs": train.epochs, "warmup_epochs": train.warmup_epochs, "updates_per_epoch": steps_per_epoch}
    nothing = torch.optim.SGD([nn.Parameter(torch.zeros(1))], train.lr)
    return create_scheduler_v2(nothing, settings.pop("name"), **counts, **settings)[0]


def make_optimizer(params: list[nn.Parameter], train: Train, model: Any = None) -> torch.optim.Optimizer:
    """Adapters follow the student's settings; weight decay holds for all, or spares what `train.no_decay` names.

    `model`: the student, which may name parameters of its own that are to be spared (class tokens, positions). Raises
    UserError where it has no layers for `layer_decay`.
    """
    groups = groups_of(params, train, model)
    given: dict[str, Any] = {"lr": train.lr, "weight_decay": train.weight_decay}
    own = {name: value for name in ("betas", "eps") if (value := getattr(train, name)) is not None}
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, **given, **own, foreach=True)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, **given, momentum=train.momentum, nesterov=train.nesterov, foreach=True)
    from timm.optim import create_optimizer_v2

    return create_optimizer_v2(groups, train.optimizer, **given, momentum=train.momentum, **own)


def groups_of(params: list[nn.Parameter], train: Train, model: Any) -> list[dict[str, Any]]:
    """Parameters of one rate and one weight decay."""
    if train.layer_decay is not None:
        return layered(params, train, model)
    return [{"params": params}] if train.no_decay is None else decayed_and_spared(params, model)


def layered(params: list[nn.Parameter], train: Train, model: Any) -> list[dict[str, Any]]:
    """timm's rule of `layer_decay`: groups have an `lr_scale`, which `set_rate` knows; adapters have the full rate."""
    from timm.optim import param_groups_layer_decay

    sparing = train.no_decay is not None
    names = model.no_weight_decay() if sparing and hasattr(model, "no_weight_decay") else ()
    rule = {"weight_decay_exclude_1d": sparing, "no_weight_decay_list": names, "layer_decay": train.layer_decay}
    groups = param_groups_layer_decay(model, train.weight_decay, **rule)
    if len({group["lr_scale"] for group in groups}) == 1:
        raise UserError(f"layer_decay: {type(model).__name__} has no layers that timm tells apart")
    layers = {parameter for group in groups for parameter in group["params"]}
    adapters = [parameter for parameter in params if parameter not in layers]
    rest = decayed_and_spared(adapters, None) if sparing else [{"params": adapters}]
    return [*groups, *(group for group in rest if group["params"])]


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
        scale = group.get("lr_scale", 1.0)
        group["lr"] = rate * scale if group.get("capturable") else float(rate) * scale


def momentum_of(train: Train) -> float:
    return train.momentum if train.optimizer == "sgd" else 0.0

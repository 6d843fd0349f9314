"""The gradients of a step: those of its two parts, what a rule makes of them, and those that a checkpoint holds."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdbench.method.contract import Inapplicable, Method
from kdbench.method.rules import is_rule
from kdbench.suite.training import Train
from kdbench.train.objective import Objective

Gradients = Sequence[Tensor | None]  # one for each parameter; None where the loss does not reach it


def combine(
    rule: Method,
    params: Sequence[nn.Parameter],
    task: Gradients,
    distilled: Gradients,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Set `grad` of every parameter: what the rule says where both losses reach it, else the one there is."""
    both = []
    for parameter, of_task, of_distilled in zip(params, task, distilled, strict=True):
        parameter.grad = of_task if of_distilled is None else of_distilled
        if of_task is not None and of_distilled is not None:
            both.append((parameter, of_task, of_distilled))
    if both:
        reached, of_tasks, of_distilleds = (list(column) for column in zip(*both, strict=True))
        for parameter, gradient in zip(reached, rule.combine(reached, of_tasks, of_distilleds, optimizer), strict=True):
            parameter.grad = gradient


def gradients(loss: Tensor, params: Sequence[nn.Parameter]) -> Gradients:
    """Of one part of the loss, which may reach no parameter at all; the graph is kept for the other part."""
    if not loss.requires_grad:
        return [None] * len(params)
    return torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)


def set_gradients(params: Sequence[nn.Parameter], given: Gradients) -> None:
    """Give each parameter the gradient that it had when the state was saved."""
    for parameter, gradient in zip(params, given, strict=True):
        parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)


def scaler_of(train: Train, objective: Objective, device: torch.device) -> torch.amp.GradScaler:
    """What keeps gradients of fp16 from vanishing; in any other precision it is the identity.

    Raises Inapplicable for a rule on gradients, which compares them with what it saw unscaled.
    """
    scaled = train.precision == "fp16"
    if scaled and any(is_rule(type(term.method)) for term in objective.all_terms()):
        raise Inapplicable("a rule on gradients takes no scaled ones (precision: fp16)")
    return torch.amp.GradScaler(device.type, enabled=scaled)

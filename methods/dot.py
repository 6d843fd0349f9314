"""DOT, the distillation-oriented trainer: the distillation loss gets a larger momentum than the task loss."""

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method.contract import Share, Tensors


@register_method("dot", needs=(), paper="https://arxiv.org/abs/2307.08436", year=2023, family="structure")
class DOT(Method):
    """A rule, no loss: v_task = (m - D) v_task + g_task, v_kd = (m + D) v_kd + g_kd, step -lr (v_task + v_kd).

    m is the optimizer's momentum, D is `delta` (Zhao et al. 2023; the authors' 0.075 for CIFAR-100); weight decay is
    the task's. A parameter that only one of the two losses reaches keeps m. Two gradients take two backward passes.

    SGD itself stays: its buffer is v = v_task + v_kd when it is given g_task + g_kd + D (v_kd - v_task), both v as they
    were before this step.
    """

    def __init__(self, delta: Share = 0.075) -> None:
        super().__init__()
        self.delta = delta

    def build(self, student: Outputs, teacher: Outputs, task: Task) -> None:
        if task.momentum == 0:
            raise Inapplicable("needs an optimizer with momentum (sgd)")
        if task.momentum + self.delta >= 1:
            raise Inapplicable(f"needs momentum + delta below 1, not {task.momentum:g} + {self.delta:g}")

    @torch.no_grad()
    def combine(self, params: Tensors, task: Tensors, distilled: Tensors, optimizer: torch.optim.Optimizer) -> Tensors:
        group = optimizer.param_groups[0]  # they differ in weight decay only
        v_task, v_kd = (momenta(name, params, optimizer) for name in ("dot_task", "dot_kd"))
        gradients = list(torch._foreach_add(task, distilled))
        torch._foreach_add_(gradients, torch._foreach_sub(v_kd, v_task), alpha=self.delta)
        torch._foreach_mul_(v_task, group["momentum"] - self.delta)
        torch._foreach_add_(v_task, task)
        for decay, places in decays(optimizer, params).items():
            torch._foreach_add_([v_task[i] for i in places], [params[i] for i in places], alpha=decay)
        torch._foreach_mul_(v_kd, group["momentum"] + self.delta)
        torch._foreach_add_(v_kd, distilled)
        return gradients

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {}


def decays(optimizer: torch.optim.Optimizer, params: Tensors) -> dict[float, list[int]]:
    """Weight decay -> the places in `params` of those that have it."""
    places: dict[float, list[int]] = {}
    of = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    for place, parameter in enumerate(params):
        places.setdefault(of[parameter], []).append(place)
    return places


def momenta(name: str, params: Tensors, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """One of the two momenta of each parameter, zero at first."""
    for p in params:
        optimizer.state[p].setdefault(name, torch.zeros_like(p))
    return [optimizer.state[p][name] for p in params]

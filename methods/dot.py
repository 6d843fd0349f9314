"""DOT, the distillation-oriented trainer: the distillation loss gets a larger momentum than the task loss."""

import torch
from torch import Tensor

from kdbench import Batch, Inapplicable, Method, Outputs, Task, register_method
from kdbench.method import Gradients, Share


@register_method("dot", needs=(), paper="https://arxiv.org/abs/2307.08436", year=2023, family="structure")
class DOT(Method):
    """A rule, no loss: v_task = (m - D) v_task + g_task, v_kd = (m + D) v_kd + g_kd, step -lr (v_task + v_kd).

    m is the optimizer's momentum, D is `delta` (Zhao et al. 2023, section 4; 0.075 on CIFAR-100); weight decay counts
    with the task. A parameter that only one of the two losses reaches keeps m. SGD itself stays: its buffer is
    v = v_task + v_kd when it is given g_task + g_kd + D (v_kd - v_task), both v as they were before this step.
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
    def combine(self, task: Gradients, distilled: Gradients, optimizer: torch.optim.Optimizer) -> Gradients:
        [group] = optimizer.param_groups
        return [
            self.combined(p, g_task, g_kd, group, optimizer.state[p]) if g_task is not None and g_kd is not None else
            (g_kd if g_task is None else g_task)
            for p, g_task, g_kd in zip(group["params"], task, distilled, strict=True)
        ]  # fmt: skip

    def combined(self, p: Tensor, g_task: Tensor, g_kd: Tensor, group: dict, state: dict) -> Tensor:
        """The gradient for SGD of one parameter; its two momenta go on."""
        for name in ("dot_task", "dot_kd"):
            if name not in state:
                state[name] = torch.zeros_like(p)
        v_task, v_kd = state["dot_task"], state["dot_kd"]
        gradient = g_task + g_kd + self.delta * (v_kd - v_task)
        v_task.mul_(group["momentum"] - self.delta).add_(g_task).add_(p, alpha=group["weight_decay"])
        v_kd.mul_(group["momentum"] + self.delta).add_(g_kd)
        return gradient

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:
        return {}

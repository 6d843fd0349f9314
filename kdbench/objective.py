"""An objective: a weighted sum of methods, and the owner of their adapters."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.method import Batch, Inapplicable, Method, Outputs, Task
from kdbench.registry import METHODS
from kdbench.seeding import seeded
from kdbench.suite import Terms


class Objective(nn.Module):
    """`terms` as `Cell.terms`: method -> weight and settings.

    Adapters are made after the student and from their own generator, one per method, so that they neither disturb
    the student's initial weights nor depend on which other methods stand beside them.
    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.weights = {name: float(settings["weight"]) for name, settings in terms.items()}
        self.methods = nn.ModuleDict()
        for name, settings in terms.items():
            self.methods[name] = METHODS[name](**{k: v for k, v in settings.items() if k != "weight"})

    @property
    def needs(self) -> frozenset[str]:
        return needs_of(self.weights)

    def build(self, student: Outputs, teacher: Outputs, task: Task, *seed: object) -> None:
        """Build every method's adapters. Raises Inapplicable with the method's name in the reason."""
        for name, method in self._methods():
            try:
                with seeded("adapters", name, *seed):
                    method.build(student, teacher, task)
            except Inapplicable as reason:
                raise Inapplicable(f"{name} {reason}") from None

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum to minimise, and the scalar losses by name as the methods gave them (unweighted)."""
        losses: dict[str, Tensor] = {}
        total: Any = 0.0
        for name, method in self._methods():
            for term, loss in method(student, teacher, batch).items():
                losses[term] = loss
                total = total + self.weights[name] * loss
        return total, losses

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def _methods(self) -> Iterable[tuple[str, Method]]:
        return self.methods.items()  # type: ignore[return-value]


def needs_of(methods: Iterable[str]) -> frozenset[str]:
    """What the networks must deliver for `methods`. Empty: no teacher is needed."""
    return frozenset(need for name in methods for need in METHODS[name].needs)


def blank_outputs(net: Any, needs: Iterable[str], task: Task, device: torch.device | str) -> Outputs:
    """What `net` says about two grey pictures, for finding shapes. Batch-norm statistics stay untouched."""
    training = net.training
    net.eval()
    with torch.no_grad():
        images = torch.full((2, *task.input_size), 0.5, device=device)
        outputs = net(images, needs)
    net.train(training)
    return outputs

"""Parts of a module, found by name: what they give is noted, they are frozen or kept; and what stands before one."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import UserError, unknown

MOST_NAMES = 20  # of modules that an error lists


class Tap:
    """Notes the input of each of `modules` during `with tap:`, in the order of the forward."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.seen: list[Tensor] = []
        self.open = False
        for module in modules:
            module.register_forward_pre_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.open:
            self.seen.append(inputs[0])

    def __enter__(self) -> "Tap":
        self.seen, self.open = [], True
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False

    def all(self) -> tuple[Tensor, ...]:
        seen, self.seen = tuple(self.seen), []
        return seen

    def last(self) -> Tensor:
        return self.all()[-1]


class OutputTap(Tap):
    """Notes the output of each of `modules`; of one that gives several, the first."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__([])
        for module in modules:
            module.register_forward_hook(self._note_output)  # no lambda: a copied net has copied taps

    def _note_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        self._note(module, (output[0] if isinstance(output, tuple) else output,))


class Normalise(nn.Module):
    """(x - mean) / std of each channel, the second dimension of x."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32, device="cpu"), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def about(self) -> dict[str, str]:
        return {"mean": json.dumps(self.mean.tolist()), "std": json.dumps(self.std.tolist())}


def modules_named(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Raises UserError that lists the names there are, for one that is unknown."""
    known = dict(model.named_modules())
    for name in names:
        if name not in known:
            outer = sorted(known, key=lambda name: name.count("."))[1 : 1 + MOST_NAMES]
            text = unknown(f"module of {type(model).__name__}", name, known)
            raise UserError(f"{text}; among them are: {', '.join(outer)}" if "there are:" not in text else text)
    return [known[name] for name in names]


def names_within(model: nn.Module, parts: Sequence[nn.Module]) -> list[str]:
    """The names in `model` of the tensors of some of its parts, of its classifier. Raises UserError for none."""
    own = {id(tensor) for part in parts for tensor in part.state_dict(keep_vars=True).values()}
    names = [name for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in own]
    if not names:
        raise UserError(f"{type(model).__name__} has no classifier with weights, so no head to be told from the rest")
    return names


def frozen_parts(model: nn.Module, head: Sequence[nn.Module], names: Sequence[str]) -> tuple[nn.Module, ...]:
    """The parts of `model` that `names` says, from now on without gradients; `backbone`: all but its head.

    Raises UserError for a name that the model has not.
    """
    if "backbone" in names and not hasattr(model, "backbone"):
        own = set(names_within(model, head))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in own)
        return tuple(part for part in model.modules() if not set(part.modules()) & set(head))
    parts = modules_named(model, names)
    for part in parts:
        part.requires_grad_(False)
    return tuple(parts)

"""What a net is called with, whatever the domain: a tensor, or a table of tensors by name."""

from collections.abc import Callable

import torch
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]  # what a net is called with: pictures, or token ids and their mask


def map_inputs(change: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The same inputs with `change` applied to every tensor."""
    if isinstance(inputs, Tensor):
        return change(inputs)
    return {name: change(x) for name, x in inputs.items()}


def num_inputs(inputs: Inputs) -> int:
    """B, the number of examples in a batch of inputs."""
    return len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))


def device_of(inputs: Inputs) -> torch.device:
    """Where a batch of inputs lies."""
    return (inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))).device

"""Does this machine repeat itself? The first step of each member is made twice from the same state."""

import copy
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kdbench.train.trial import Trial

UNREPEATABLE = "this machine does not repeat itself: the same step from the same state gave other bits"


def step_twice(trial: "Trial", step: Callable[[], None]) -> None:
    """Make `step`; for the first one of a trial in fp32 on the CPU, note in `repeatable` whether it comes out twice.

    The trial goes on from the second time, as if there had been no first.
    """
    if trial.done or trial.device.type != "cpu" or trial.train_spec.precision != "fp32":
        return step()
    before = copy.deepcopy(trial.state())
    step()
    first = copy.deepcopy(list(tensors(trial.state())))
    trial.load_state(before)
    step()
    again = list(tensors(trial.state()))
    same = len(first) == len(again) and all(same_bits(a, b) for a, b in zip(first, again, strict=True))
    trial.repeatable = same


def same_bits(one: Tensor, other: Tensor) -> bool:
    """NaN counts as equal to itself: a member that diverges does so twice."""
    return one.shape == other.shape and torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)

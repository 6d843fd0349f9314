"""A digest of a member's state after every epoch: who trains it again, or a part of it, can say that it was the same.

What is digested is what decides the rest of the training: weights, optimizer, random state and the like. It is made for
fp32 on the CPU in one process alone, for only there the same digits are promised (on one kind of processor).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from kdbench.train.lent import Guard
from kdbench.train.trial import Trial

TELLS = ("curves", "digests", "seconds", "repeatable", "earlier")  # of a trial's state, and decides nothing
BYTES = 10  # of a digest: 80 bits, 20 hex digits


def note_start(trials: Iterable[Trial]) -> None:
    """Add the first digest, that before the first step, to those who have none yet."""
    for trial in trials:
        if not trial.digests and not trial.done:
            note_state(trial)


def note_state(trial: Trial) -> None:
    """Add the digest of its state to a running trial's; where making its state raises, the trial ends with that."""
    promised = trial.device.type == "cpu" and trial.train_spec.precision == "fp32" and trial.group.size == 1
    if trial.status != "running" or not promised:
        return
    try:
        with Guard():
            state = trial.state()
    except Exception as error:
        trial.fail(error)
        return
    trial.digests.append(digest_of({name: part for name, part in state.items() if name not in TELLS}))


def digest_of(table: Mapping[str, Any]) -> str:
    """20 hex digits of nested tables and lists of tensors, numbers and text; the order of a table counts for nothing.

    Of a tensor its name, type, shape and elements count, not how they lie in memory.
    """
    whole = hashlib.blake2b(digest_size=BYTES)
    _add(whole.update, "", table)
    return whole.hexdigest()


def _add(update: Callable[[Any], None], name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        update(f"{name}\0{value.dtype}{tuple(value.shape)}\0".encode())
        update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, Mapping | list | tuple):
        for part, inner in _parts(value):
            _add(update, f"{name}/{part}", inner)
    else:
        update(f"{name}\0{value!r}\0".encode())


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return iter(sorted(value.items(), key=lambda item: str(item[0])))
    return iter(enumerate(value))

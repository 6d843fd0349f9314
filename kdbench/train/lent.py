"""What a member is lent must be left as it was: the batch, the teacher's outputs, the settings of the process.

Three looks are taken after every member. The first, in every step, compares version counters, which torch raises with
every write that it knows of. The second, in every step on a CPU, compares the bits of what is small and of a sample of
what is large: it finds what is written to a whole tensor behind torch's back (`x.data.zero_()`, `x.numpy()[:] = 0`).
The thorough one compares all bits, in the first and the last step, every 50 steps and where a run goes on. What is
written behind torch's back to a few elements of a large tensor (on a GPU: to any tensor), and in none of those steps,
is not found. The teacher's own weights are never lent, only copies of them.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils import _device

from kdbench.errors import Escaped, Interrupted, in_words
from kdbench.method.contract import Batch, Blend, Outputs
from kdbench.train.threads import Started

THOROUGH = 50  # steps
SAMPLE = 1024  # elements of a tensor whose bits are compared in every step; all of them where there are no more
_TINY = 5e-324  # the smallest number above 0; where denormal numbers are flushed it is 0


class Trespass(Exception):
    """A member wrote into what it was lent, or changed a setting of the process."""


class Undermined(Exception):
    """A member wrote behind torch's back, nobody knows since when: the others must start again.

    `offender`: the key of its trial, which has failed.
    """

    def __init__(self, offender: str) -> None:
        super().__init__(offender)
        self.offender = offender


class Lent:
    """Tensors that members may read. `thorough`: compare their bits, too."""

    def __init__(self, owners: dict[str, Any], thorough: bool = False) -> None:
        self.names: list[str] = []
        self.tensors: list[Tensor] = []
        self.tables: list[dict[str, Any]] = []
        for owner, value in owners.items():
            self._note(owner, value)
        self.held = [list(table.items()) for table in self.tables]
        self.marks = [mark(tensor) for tensor in self.tensors]
        looked_at = [tensor if thorough else sample(tensor) for tensor in self.tensors]
        self.copies = [None if part is None else (part, part.clone()) for part in looked_at]
        self.settings = settings_now()

    def _note(self, name: str, value: Any) -> None:
        """Every tensor of a batch or of outputs, with a name for people."""
        if isinstance(value, Tensor):
            self.names.append(name)
            self.tensors.append(value)
        elif isinstance(value, Batch | Outputs | Blend):
            for field in fields(value):
                self._note(f"{name} {field.name}", getattr(value, field.name))
        elif isinstance(value, dict):
            self.tables.append(value)
            for key, part in value.items():
                self._note(f"{name} {key}", part)
        elif isinstance(value, tuple):
            for number, part in enumerate(value):
                self._note(f"{name} {number}", part)

    def written(self) -> list[str]:
        """The names of what was written to, as far as torch knows."""
        now = [mark(tensor) for tensor in self.tensors]
        names = [name for name, a, b in zip(self.names, self.marks, now, strict=True) if a != b]
        return names if all(map(same_table, self.tables, self.held)) else [*names, "a table of tensors"]

    def written_behind(self) -> list[str]:
        """The names of what has other bits, as far as they are compared."""
        found = zip(self.names, self.copies, strict=True)
        return [name for name, both in found if both is not None and not same_bits(*both)]


def mark(tensor: Tensor) -> tuple[int, int]:
    """Where its memory lies, and how often torch saw a write to it."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def sample(tensor: Tensor) -> Tensor | None:
    """A view of some `SAMPLE` elements from all over it; None on a GPU, for which a look would have to wait."""
    if tensor.device.type != "cpu":
        return None
    if tensor.numel() <= SAMPLE:
        return tensor
    if tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last):
        apart = (tensor.numel() // SAMPLE - 1) | 1  # odd, so that it meets every column of a picture
        return tensor.as_strided((SAMPLE,), (apart,))
    return tensor[tuple(slice(None, None, max(1, size // 8)) for size in tensor.shape)]


def same_table(table: dict[str, Any], held: list[tuple[str, Any]]) -> bool:
    return len(table) == len(held) and all(table.get(name) is value for name, value in held)


def same_bits(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def without_weights(outputs: Outputs) -> Outputs:
    """A teacher's outputs with a copy of its classifier, which is its own weights."""
    outputs = replace(outputs, views={name: without_weights(view) for name, view in outputs.views.items()})
    if outputs.classifier is None:
        return outputs
    weight, bias = outputs.classifier
    return replace(outputs, classifier=(weight.detach().clone(), bias.detach().clone()))


# --- the process's settings ------------------------------------------------------------------------------------------


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _cudnn() -> tuple[bool, ...]:
    read = (torch._C._get_cudnn_enabled, torch._C._get_cudnn_benchmark, torch._C._get_cudnn_deterministic)
    return tuple(one() for one in read)


def _set_cudnn(values: tuple[bool, ...]) -> None:
    write = (torch._C._set_cudnn_enabled, torch._C._set_cudnn_benchmark, torch._C._set_cudnn_deterministic)
    for one, value in zip(write, values, strict=True):
        one(value)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's default device": (lambda: _device.CURRENT_DEVICE, torch.set_default_device),
    "torch's deterministic algorithms": (
        _deterministic,
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch's flushing of denormal numbers": (lambda: _TINY * 1.0 == 0.0, torch.set_flush_denormal),
    "torch's precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "torch's autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda value: torch.set_autocast_enabled("cpu", value),
    ),
    "torch's anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "oneDNN": (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    "cuDNN's settings": (_cudnn, _set_cudnn),
    "the working folder": (os.getcwd, os.chdir),
}


def settings_now() -> list[Any]:
    return [read() for read, _ in SETTINGS.values()]


def put_back(before: Sequence[Any]) -> list[str]:
    """Put every setting back; the sentences about those that were changed."""
    changed: list[str] = []
    if settings_now() == before:
        return changed
    for (name, (read, write)), value in zip(SETTINGS.items(), before, strict=True):
        if (now := read()) != value:
            write(value)
            changed.append(f"changed {name} from {value} to {now}")
    return changed


class Guard:
    """`with Guard(lent):` around a member's code. Settings are put back; what it raises is an Exception; threads that
    it starts are waited for.

    Raises Trespass where it wrote into what it was lent or changed a setting; `spoilt`: is what was lent of no more
    use? `behind`: was that found by its bits alone?
    """

    def __init__(self, lent: Lent | None = None) -> None:
        self.lent, self.spoilt, self.behind = lent, False, False

    def __enter__(self) -> "Guard":
        self.before = self.lent.settings if self.lent is not None else settings_now()
        self.threads = Started()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.threads.wait()
        faults = put_back(self.before)
        if self.lent is not None:
            written = self.lent.written()
            behind = [] if written else self.lent.written_behind()
            self.spoilt, self.behind = bool(written or behind), bool(behind)
            faults += [f"wrote into {name}, which is only lent to it" for name in sorted(written or behind)[:3]]
        if isinstance(error, Interrupted):
            return
        if faults:
            raise Trespass("; ".join([*faults, *([in_words(error)] if error is not None else [])])) from error
        if error is not None and not isinstance(error, Exception):
            raise Escaped(f"raised {in_words(error)}") from error

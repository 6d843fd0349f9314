"""How each golden case's arrays are handed to the method it checks.

A file per family; a function per case (or several), found by the case's id. An id that is not known here belongs to
the known id that it begins with, so that other settings (`kd_T7`) need no new entry.
"""

import json
import os
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.method.contract import Batch, Method, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.suite.plugins import load_methods
from kdbench.vision.batches import pictures

CaseFunction = Callable[["Golden"], Tensor]
_FUNCTIONS: dict[str, CaseFunction] = {}
_LEFT_OUT: dict[str, str] = {}


def golden(*ids: str) -> Callable[[CaseFunction], CaseFunction]:
    """Decorator: this function computes the value of the cases `ids`."""

    def register(function: CaseFunction) -> CaseFunction:
        for name in ids:
            assert name not in _FUNCTIONS, f"case {name} twice"
            _FUNCTIONS[name] = function
        return function

    return register


def left_out(reason: str, *ids: str) -> None:
    """Cases that no method of ours has to meet, with the reason."""
    _LEFT_OUT.update(dict.fromkeys(ids, reason))


def golden_folder() -> Path:
    return Path(os.environ.get("KDBENCH_GOLDEN") or Path(__file__).parents[1] / "golden")


@cache
def load_cases() -> list[dict[str, Any]]:
    """Those that public code gave, those that `derive.py` worked out from the formulas, those of methods' authors."""
    files = [path for name in ("golden.json", "ours.json") if (path := golden_folder() / name).is_file()]
    files += sorted((golden_folder() / "added").glob("*.json"))
    return [case for path in files for case in json.loads(path.read_text())["cases"]]


@cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(golden_folder() / "inputs.npz") as file:
        return {name: file[name] for name in file.files}


def _nearest(name: str, table: dict[str, Any]) -> str | None:
    begun = [known for known in table if name == known or re.match(re.escape(known) + r"[_0-9]", name)]
    return max(begun, key=len, default=None)


def why_left_out(name: str) -> str | None:
    if name in _FUNCTIONS:
        return None
    if _nearest(name, {**_FUNCTIONS, **_LEFT_OUT}) in _LEFT_OUT:
        return _LEFT_OUT[_nearest(name, _LEFT_OUT) or name]
    return None


def case_function(name: str) -> CaseFunction:
    """Raises AssertionError for a case that nobody computes: a golden number may not go unnoticed."""
    near = _nearest(name, _FUNCTIONS)
    assert near is not None, f"no function computes the golden case {name!r}; see tests/golden_cases/"
    return _FUNCTIONS[near]


class Golden:
    """One case: its arrays as tensors (the student's ask for gradients), its hyper-parameters, and help to run it."""

    def __init__(self, case: dict[str, Any], dtype: torch.dtype) -> None:
        load_methods()
        self.id, self.hyper, self.dtype = case["id"], case["hyper"], dtype
        self._wanted = set(case["grads"])
        self._tensors: dict[str, Tensor] = {}

    def array(self, name: str) -> Tensor:
        """The array `name`: floats in the test's dtype, integers as they are. The same tensor at every call."""
        if name not in self._tensors:
            tensor = torch.from_numpy(_arrays()[name])
            if tensor.is_floating_point():
                tensor = tensor.to(self.dtype).requires_grad_(name in self._wanted)
            self._tensors[name] = tensor
        return self._tensors[name]

    def arrays(self, *names: str) -> tuple[Tensor, ...]:
        return tuple(self.array(name) for name in names)

    def outputs(self, side: str, **parts: Any) -> Outputs:
        """Outputs from arrays: `outputs("s", logits="s_logits", features=("s_feat0", "s_feat1"))`.

        Logits that are not named are the side's own.
        """
        named: dict[str, Any] = {"logits": f"{side}_logits", **parts}
        found = {k: self.arrays(*v) if isinstance(v, tuple) else self.array(v) for k, v in named.items()}
        return Outputs(**found)

    def batch(self, progress: float = 1.0) -> Batch:
        target = self.array("target")
        images, done = torch.zeros(len(target), 3, 4, 4, dtype=self.dtype), torch.tensor(progress, dtype=torch.float64)
        return Batch(images, target, self.array("index"), done)

    def task(self, **changes: Any) -> Task:
        classes = self.array("s_logits").shape[1]
        return Task(**{"num_classes": classes, "num_train": 40, "inputs": pictures(4, 4), **changes})

    def method(
        self, name: str, student: Outputs, teacher: Outputs, task: Task | None = None, **settings: Any
    ) -> Method:
        """The method, built for these outputs, in train mode and in the test's dtype."""
        made = METHODS[name](**settings)
        made.build(student, teacher, task or self.task())
        return made.to(self.dtype).train()

    def run(self, method: Method, student: Outputs, teacher: Outputs, progress: float = 1.0) -> Tensor:
        """The sum of the method's losses."""
        return torch.stack(list(method(student, teacher, self.batch(progress)).values())).sum()

    def value(self, name: str, student: Outputs, teacher: Outputs, **settings: Any) -> Tensor:
        """Build and run at once, for a method without adapters."""
        return self.run(self.method(name, student, teacher, **settings), student, teacher)

    def set(self, module: nn.Module, **names: str) -> None:
        """Copy arrays into parameters or buffers: `set(conv, weight="adapt1_w", bias="adapt1_b")`."""
        with torch.no_grad():
            for attribute, name in names.items():
                own = getattr(module, attribute)
                array = self.array(name).detach()
                assert own.numel() == array.numel(), f"{name}: {tuple(array.shape)} for {tuple(own.shape)}"
                own.copy_(array.view_as(own))


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

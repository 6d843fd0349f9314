"""kdbench compares knowledge-distillation methods honestly.

The names below are all that a method, a data set, a net or a script needs. They are loaded on first use, so that
`import kdbench` (and `kdbench --help`) costs milliseconds, not the seconds that torch and timm take.
"""

import os
from importlib import import_module
from typing import Any

# Before torch starts its threads: a thread that waits should spin for some 20 microseconds, then sleep.
# Without spinning, a small net's step takes 1.45 times as long on a quiet machine; with endless spinning, twice as long
# on a busy one.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_HOME = {
    "Batch": "method.contract", "Inapplicable": "method.contract", "Method": "method.contract",
    "Outputs": "method.contract", "Task": "method.contract", "register_method": "method.register",
    "Conversion": "method.transform", "Reshape": "method.transform", "register_transform": "method.transform",
    "register_dataset": "data", "InMemory": "data", "Splits": "data", "load_splits": "data", "register_net": "nets",
    "Images": "vision.batches", "UserError": "errors", "run": "api", "plan": "api", "leaderboard": "api",
    "load_student": "train.load", "load_deployed": "train.load",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
    return getattr(import_module(f"kdbench.{_HOME[name]}"), name)

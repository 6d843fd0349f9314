"""Data sets: registered functions `(data_dir, **settings) -> Splits`."""

from kdbench.data import builtin as _builtin  # noqa: F401  (registers)
from kdbench.data import folder as _folder  # noqa: F401
from kdbench.data.splits import Images, Splits, hold_out, load_splits

__all__ = ["Images", "Splits", "hold_out", "load_splits"]

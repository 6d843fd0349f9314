"""Weights from files: read safely, and judged by what fits."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.errors import UserError, first_line

# Many checkpoints hold the accuracy as a NumPy scalar: plain data, but weights_only asks for each of its parts by name.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_SCALAR_NAMES = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # NumPy 2, NumPy 1
NUMPY_SCALAR: list[Any] = [
    *((_SCALAR, name) for name in _SCALAR_NAMES),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


def load_weights(model: nn.Module, path: Path) -> str:
    """Load a .safetensors file, or a .pth read with `weights_only` (nothing in it is executed).

    The CIFAR nets also take the names of the CRD benchmark's public checkpoints. Raises UserError when the file is
    missing, is not such a file, or does not fit the model; then it says what fits and what does not. Returns the
    SHA-256 of what was loaded.
    """
    before = _stamp(path)
    state = fitting_weights(model, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _stamp(path) != before:
        raise UserError(f"checkpoint {path} was changed while it was read; run the same command again")
    model.load_state_dict(state)
    return digest


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one where the file was replaced or written to."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def fitting_weights(model: nn.Module, path: Path) -> dict[str, Tensor]:
    """What `load_weights` loads. `model` may lie on the meta device. Raises UserError."""
    state = read_weights(path)
    ours: Any = getattr(model, "published_name", str)
    state = {ours(name): value for name, value in state.items()}
    own = model.state_dict()
    counters = {k: torch.zeros_like(v, device="cpu") for k, v in own.items() if k.endswith("num_batches_tracked")}
    state = counters | state  # older files have none
    if wrong := mismatch(own, state):
        raise UserError(f"checkpoint {path} {wrong}")
    return state


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises UserError."""
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        return _read_state(path)
    except Exception as error:
        kinds = "a .safetensors file, or a .pth that holds a table of tensors and nothing that has to be executed"
        hint = "Weights only load failed" in str(error)  # torch's text goes on to advise to read it unsafely
        why = "it holds objects of other kinds, which are never loaded" if hint else first_line(error)
        raise UserError(f"checkpoint {path}: can't be read safely as {kinds}: {why}") from error


def mismatch(own: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What of `state` does not fit `own`, in words; empty when all does."""
    shared = own.keys() & state.keys()
    lists = {"lacks": sorted(own.keys() - state.keys()), "has unknown": sorted(state.keys() - own.keys())}
    shapes = sorted(name for name in shared if own[name].shape != state[name].shape)
    lists["has another shape for"] = [f"{k} ({[*state[k].shape]}, here {[*own[k].shape]})" for k in shapes]
    parts = []
    for what, names in lists.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what} {', '.join(names[:3])}{more}")
    fits = f"{len(shared) - len(shapes)} of the model's {len(own)} tensors fit"
    return "; ".join([*parts, fits]) if parts else ""


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with torch.serialization.safe_globals(NUMPY_SCALAR):
        state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("model", "state_dict", "net"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("holds no table of tensors")
    return {k.removeprefix("module."): v for k, v in state.items()}

"""Weights from files: read safely, and judged by what fits."""

import hashlib
from argparse import Namespace  # many checkpoints hold their script's arguments: plain data
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.errors import UserError, first_line, unknown

# Many checkpoints hold the accuracy as a NumPy scalar: plain data, but weights_only asks for each of its parts by name.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_SCALAR_NAMES = ("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")  # NumPy 2, NumPy 1
NUMPY_SCALAR: list[Any] = [
    *((_SCALAR, name) for name in _SCALAR_NAMES),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]
NO_WEIGHTS = ("optimizer", "scheduler", "lr_scheduler", "scaler", "amp")  # entries of a checkpoint that hold none


@dataclass(frozen=True)
class Chosen:
    """What of a file is taken. `entry`: which of its tables of weights, where it has several. `own`: the names of
    tensors that the model keeps as they are. `beyond`: the file may hold more than the model has (its classifier).
    """

    entry: str | None = None
    own: tuple[str, ...] = ()
    beyond: bool = False


ALL = Chosen()


def load_weights(model: nn.Module, path: Path, chosen: Chosen = ALL) -> str:
    """Load a .safetensors file, or a .pth read with `weights_only` (nothing in it is executed).

    Names with `module.` before them (data-parallel training) fit too, and the CIFAR nets take those of the CRD
    benchmark's public checkpoints. Raises UserError when the file is missing, is not such a file, or does not fit the
    model; then it says what fits and what does not. Returns the SHA-256 of what was loaded.
    """
    before = _stamp(path)
    state = fitting_weights(model, path, chosen)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if _stamp(path) != before:
        raise UserError(f"checkpoint {path} was changed while it was read; run the same command again")
    give_weights(model, state)
    return digest


def give_weights(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a whole table of weights into `model`, as of its own version: a file of bare tensors tells none.

    (torchvision's MNASNet refuses a table without one.)
    """
    whole: Any = OrderedDict(state)
    whole._metadata = getattr(model.state_dict(), "_metadata", {})
    model.load_state_dict(whole)


def _stamp(path: Path) -> tuple[int, ...]:
    """Another one where the file was replaced or written to."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def fitting_weights(model: nn.Module, path: Path, chosen: Chosen = ALL) -> dict[str, Tensor]:
    """What `load_weights` loads. `model` may lie on the meta device. Raises UserError."""
    state, here = read_weights(path, chosen.entry), model.state_dict()
    ours: Any = getattr(model, "published_name", str)
    state = {ours(name): value for name, value in without_common_part(state, here).items()}
    state = {name: value for name, value in state.items() if name in here or not chosen.beyond}
    counters = {k: torch.zeros_like(v, device="cpu") for k, v in here.items() if k.endswith("num_batches_tracked")}
    state = counters | state | {name: here[name] for name in chosen.own}  # older files have no counters
    if wrong := mismatch(here, state):
        raise UserError(f"checkpoint {path} {wrong}{_advice(here, state)}")
    read = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    if odd := [name for name, value in read.items() if not value.isfinite().all()]:
        raise UserError(f"checkpoint {path}: not all values are numbers, e.g. of {odd[0]}")
    return state


def _advice(here: dict[str, Tensor], state: dict[str, Tensor]) -> str:
    """What to do about a file that nearly fits."""
    lacking, beyond, shared = here.keys() - state.keys(), state.keys() - here.keys(), here.keys() & state.keys()
    shapes = {name for name in shared if here[name].shape != state[name].shape}
    if shapes and not lacking and len({name.rpartition(".")[0] for name in shapes}) <= 2:
        return "; if only the classifier is for other classes, say `head: new`: then it is fine-tuned"
    if lacking and all("downsample" in name or "shortcut" in name for name in lacking) and not shapes:
        return "; its shortcuts have no weights (zero-padded, `option A`): bring that net's class by a plugin"
    if beyond and not lacking and not shapes:
        return "; if it is of a larger net of the kind, give that one's name"
    return ""


def without_common_part(state: dict[str, Tensor], here: Collection[str]) -> dict[str, Tensor]:
    """`backbone.conv1.weight` -> `conv1.weight`, where all names begin alike and none is one of the model's."""
    first = {name.split(".")[0] for name in state}
    if len(first) != 1 or any(name in here for name in state) or not all("." in name for name in state):
        return state
    return {name.split(".", 1)[1]: value for name, value in state.items()}


def read_weights(path: Path, entry: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file by name; of its table `entry`, where it has several. Raises UserError."""
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        found = _read(path)
    except Exception as error:
        kinds = "a .safetensors file, or a .pth that holds a table of tensors and nothing that has to be executed"
        hint = "Weights only load failed" in str(error)  # torch's text goes on to advise to read it unsafely
        why = "it holds objects of other kinds, which are never loaded" if hint else first_line(error)
        raise UserError(f"checkpoint {path}: can't be read safely as {kinds}: {why}") from error
    table = _chosen(tables_in(found), entry, path)
    return {bare(name): value for name, value in table.items() if name != "n_averaged"}  # torch's AveragedModel's


def tables_in(found: Any, name: str = "") -> dict[str, dict[str, Tensor]]:
    """The tables of tensors in a checkpoint, by the name of their entry: `state_dict`, `model_ema`, `model.net`, ...

    One that is nothing else is called "".
    """
    if not isinstance(found, dict):
        return {}
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if tensors and all(isinstance(v, Tensor | int | float | None) for v in found.values()):
        return {name: tensors}
    below: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        if not str(key).startswith(NO_WEIGHTS):
            below |= tables_in(value, f"{name}.{key}" if name else str(key))
    return below


def _chosen(tables: dict[str, dict[str, Tensor]], entry: str | None, path: Path) -> dict[str, Tensor]:
    """The table `entry`, or the one that there is. Raises UserError that names those to choose from."""
    if entry is not None:
        if entry not in tables:
            raise UserError(f"checkpoint {path}: {unknown('entry', entry, tables)}")
        return tables[entry]
    usual = [name for name in tables if name.split(".")[-1] in ("", "model", "state_dict", "net")]
    averaged = [name for name in tables if "ema" in name.lower()]
    names = usual + averaged or list(tables)
    if not names:
        raise UserError(f"checkpoint {path}: holds no table of tensors")
    if len(names) > 1:
        raise UserError(f"checkpoint {path}: holds several tables of weights; say which as `checkpoint_entry`: {names}")
    return tables[names[0]]


def bare(name: str) -> str:
    """A tensor's name without what wrappers put before it: data-parallel training, torch.compile."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.split(".", 1)[1]
    return name


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


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        begins = file.read(9)
    if not begins:
        raise ValueError("it is empty")
    if path.suffix == ".safetensors" or begins[8:] == b"{":
        from safetensors.torch import load_file

        return load_file(path)
    if not begins.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle
        raise ValueError(f"it begins with {begins!r}, as no such file does")
    with torch.serialization.safe_globals([*NUMPY_SCALAR, Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)

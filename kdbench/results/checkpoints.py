"""Checkpoints: the state of one trial, safe against a death at any moment and against damage.

A file is a SHA-256 digest followed by what `torch.save` wrote; it is read with `weights_only`, so nothing in it can
run. The last two are kept: when the newer one is damaged, the older one is used.
"""

import hashlib
import io
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kdbench.files import write_atomic

SUFFIX = ".ckpt"


class Checkpoints:
    """Checkpoints in `folder`, two slots per key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _slots(self, key: str) -> list[Path]:
        return [self.folder / f"{key}.{slot}{SUFFIX}" for slot in (0, 1)]

    def save(self, key: str, state: dict[str, Any]) -> None:
        """Overwrites the older (or damaged) of the two slots."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        times = [path.stat().st_mtime_ns if path.exists() else 0 for path in self._slots(key)]
        oldest = self._slots(key)[times.index(min(times))]
        write_atomic(oldest, hashlib.sha256(content).digest() + content)

    def load(self, key: str) -> dict[str, Any] | None:
        """The furthest state that can be read, on the CPU; None when there is none."""
        states = [state for path in self._slots(key) if (state := _read(path)) is not None]
        return max(states, key=lambda state: (state["done"], state["evaluated"]), default=None)

    def saved(self) -> set[str]:
        """The keys that have one, damaged or not."""
        return {path.name.split(".")[0] for path in self.folder.glob(f"*{SUFFIX}")}

    def remove(self, key: str) -> None:
        for path in self._slots(key):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or another process was quicker
            self.folder.rmdir()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:32], content[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whole, but not ours: as good as damaged
        return None
    return state if isinstance(state, dict) and {"done", "evaluated"} <= state.keys() else None

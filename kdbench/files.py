"""Files that are whole or not there at all."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

DIGEST = 32  # bytes


class CannotWrite(OSError):
    """A file can't be written (the disk is full, or read-only); it is named."""


def write_atomic(path: Path, content: bytes) -> None:
    """Either the whole content stands under `path`, or what stood there before; also if the machine dies.

    Raises CannotWrite.
    """
    try:
        _write_aside(path, content)
    except OSError as error:
        raise CannotWrite(error.errno, error.strerror or str(error), str(path)) from error


def write_checked(path: Path, content: bytes) -> None:
    """As `write_atomic`, with a digest before it, for `read_checked`."""
    write_atomic(path, hashlib.sha256(content).digest() + content)


def read_checked(path: Path) -> bytes:
    """What `write_checked` wrote. Raises OSError when there is none, ValueError when it is damaged."""
    whole = path.read_bytes()
    if hashlib.sha256(whole[DIGEST:]).digest() != whole[:DIGEST]:
        raise ValueError(f"{path} is damaged")
    return whole[DIGEST:]


def _write_aside(path: Path, content: bytes) -> None:
    try:
        handle, name = _temporary(path)
    except FileNotFoundError:  # another process found the folder empty and removed it
        handle, name = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _temporary(path: Path) -> tuple[int, str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)


def cache_folder(part: str) -> Path:
    """Where what can be found out again is kept: KDBENCH_CACHE, else the user's cache. Safe to delete."""
    cache = os.environ.get("KDBENCH_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "kdbench"
    )
    return Path(cache) / part


def write_json(path: Path, data: Any) -> None:
    """Strict JSON: numbers are numbers, and NaN or infinity is a programmer's mistake here."""
    write_atomic(path, (json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())


def finite(value: Any) -> Any:
    """The same data with numbers that JSON can't hold replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, list | tuple) else value

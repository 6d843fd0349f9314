"""What made a number: versions, the commit, the device."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kdbench.method.register import METHODS


def installed() -> dict[str, str | None]:
    return {name: _version(name) for name in ("kdbench", "torch", "timm", "torchvision", "numpy", "scikit-learn")}


def versions(device: torch.device, methods: list[str]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        **installed(),
        "commit": git_commit(),
        "method_files": {name: METHODS.file_hash(name) for name in methods},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@lru_cache
def git_commit() -> str | None:
    """The commit of kdbench's own checkout, `-dirty` when tracked files differ; None for an installed package."""
    here = Path(__file__).parents[1]
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if not (here.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

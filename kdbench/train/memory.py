"""What memory there is, and how the C library keeps what was freed.

A step frees its activations and the next one asks for as many. By default the C library gives large pieces back to the
system at once, which then clears every page anew: up to a sixth of a step on a CPU (tests/benchmarks/README.md).
"""

import ctypes
import gc
import resource
import sys
from typing import Any

import psutil
import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)


def keep_freed() -> None:
    """From now on freed memory stays with this process, for its next step. Results do not depend on it.

    Only glibc is told; other C libraries go on as they are.
    """
    mallopt = _libc("mallopt")
    # Older ones refuse more than 32 MiB. Trimming is changed only then: by itself it would make things worse.
    if mallopt and (mallopt(_MMAP_THRESHOLD, 2**30) or mallopt(_MMAP_THRESHOLD, 2**25)):
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Return to the system what `keep_freed` kept."""
    if malloc_trim := _libc("malloc_trim"):
        malloc_trim(0)


def collect(device: torch.device) -> None:
    """Free what nobody holds any more, so that what comes next finds it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> float:
    """The share of the device's memory that new tensors could still take, 0..1."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + cached) / total
    give_back()
    memory = psutil.virtual_memory()
    return float(memory.available / memory.total)


def peak_memory_mb(device: torch.device) -> float:
    """The most that was ever allocated: on a GPU by torch, else by this whole process, in MiB."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _libc(name: str) -> Any:
    """A function of the C library; None where there is none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)

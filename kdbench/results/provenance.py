"""What made a number: versions, the commit, the device."""

import hashlib
import os
import platform
import re
import subprocess
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from kdbench.method.register import METHODS


def installed() -> dict[str, str | None]:
    return {name: _version(name) for name in ("kdbench", "torch", "timm", "torchvision", "numpy", "scikit-learn")}


def file_tools() -> dict[str, str | None]:
    """What decides sizes, scores and times of students that are measured as files."""
    return {name: _version(name) for name in ("onnxruntime", "onnx", "onnxscript", "torch-pruning")}


def versions(device: torch.device, methods: list[str]) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        **installed(),
        "commit": git_commit(),
        "method_files": {name: METHODS.file_hash(name) for name in methods},
        "device": device_name(device),
        "kind": kind_of(device),
        "onednn": onednn(),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def kind_of(device: torch.device) -> str:
    """Of a CPU the instructions that decide which digits come out, as torch uses them; of a GPU its name."""
    if device.type != "cpu":
        return device_name(device)
    return ", ".join([torch.backends.cpu.get_cpu_capability(), *(["bf16"] if has_bf16() else []), *_amx()])


def has_bf16() -> bool:
    """Does the CPU compute in bf16 itself? Without, torch emulates it, many times slower than fp32."""
    wide = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")
    return wide and not _capped() and bool(FLAGS & flags())


FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last one is ARM's


def flags() -> set[str]:
    """The processor's own word; empty where it is not to be had."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return set(
        next((line.split(":", 1)[1] for line in lines if line.lower().startswith(("flags", "feat"))), "").split()
    )


def _capped() -> bool:
    return os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper() in ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE")


def _amx() -> list[str]:
    return ["AMX"] if "amx_tile" in flags() and has_bf16() else []


def onednn() -> str | None:
    """The version of oneDNN inside torch."""
    found = re.search(r"(?:MKL-DNN|oneDNN) v([0-9.]+)", torch.__config__.show())
    return found[1] if found else None


KERNELS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS") + tuple(
    f"{library}_{name}"
    for library in ("ONEDNN", "DNNL")
    for name in ("MAX_CPU_ISA", "CPU_ISA_HINTS", "DEFAULT_FPMATH_MODE")
)


def processor() -> dict[str, Any]:
    """All that may decide which kernels a CPU runs; two machines that agree in it compute alike."""
    caps = {name: os.environ.get(name) for name in KERNELS}
    cpu = torch.device("cpu")
    about = {"processor": device_name(cpu), "kind": kind_of(cpu), "torch": torch.__version__, "onednn": onednn()}
    digest = hashlib.sha256(" ".join(sorted(flags())).encode()).hexdigest()[:12]
    return {**about, "flags": digest, **{name: value for name, value in caps.items() if value}}


@lru_cache
def git_commit() -> str | None:
    """The commit of kdbench's own checkout, `-dirty` when tracked files differ; None for an installed package."""
    here = Path(__file__).parents[1]
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if not (here.parent / ".git").exists():
        return None
    try:
        found = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


@lru_cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

"""From a trained student to the file that is delivered, and what that file takes to run."""

import copy
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdbench.method.contract import Inapplicable, InputSpec
from kdbench.suite.steps import Step, check_order, made
from kdbench.train.onnx_file import FileNet, arrays_of, onnx_file, operators_run, peak_memory, quietly
from kdbench.train.profiling import BATCHES, latencies
from kdbench.train.student import Delivered, Student
from kdbench.train.transforms import Batches, settle


@dataclass(frozen=True)
class Delivery:
    """`file`: an ONNX model. `seconds`: that its conversions took, calibration included."""

    file: bytes
    seconds: float


def deliver(
    delivered: Delivered, inputs: InputSpec, steps: Iterable[Step], batches: Batches, about: dict[str, str]
) -> Delivery:
    """The student as a file, after the conversions `steps`. Raises Inapplicable for one that changes nothing."""
    check_order(steps := list(steps))
    student = Student(bare(delivered), inputs).eval()
    file, start = onnx_file(student, about), time.perf_counter()

    def arrays(n: int) -> Iterator[dict[str, Any]]:
        return (arrays_of(given, inputs) for given, _ in batches(n))

    for step in steps:
        file = converted(file, step, student, inputs, arrays)
    return Delivery(file, time.perf_counter() - start)


def converted(file: bytes, step: Step, student: nn.Module, inputs: InputSpec, arrays: Any) -> bytes:
    """Raises Inapplicable where the conversion leaves the file as it was, or none of its operators runs."""
    [(name, _)] = step.items()
    conversion = made(step)
    try:
        conversion.check(student)
        with quietly():
            changed: bytes = conversion.apply(file, arrays)
    except Inapplicable as reason:
        raise Inapplicable(f"{name} {reason}") from None
    if changed == file:
        raise Inapplicable(f"{name} left the file as it was")
    wanted = set(conversion.operators)
    if wanted and not wanted & operators_run(changed, inputs).keys():
        raise Inapplicable(f"{name} had no effect: none of {', '.join(sorted(wanted))} runs")
    return changed


def bare(delivered: Delivered) -> Delivered:
    """A copy on the CPU, as a stranger would build it: no guards, no memory layout, nothing of training alone."""
    copied = copy.deepcopy(delivered).cpu().to(memory_format=torch.contiguous_format)
    for part in copied.modules():
        for name in ("forward", "_trusted"):
            vars(part).pop(name, None)
    settle(copied.net)
    return copied.requires_grad_(False)


def measured(file: bytes, reference: bytes | None, inputs: InputSpec, seconds: float) -> dict[str, dict[str, Any]]:
    """By name: `file`, the `uncompressed` reference beside which it was timed, and the operators that `ran`.

    `bytes` on disk; `ort_ms_b1`, `ort_ms_b64` in ONNX Runtime on one thread, `..._all` on as many as there are cores,
    with `..._p10`, `..._p90` and `..._vs_first` (to the reference); `peak_mb_b1`, `peak_mb_b64` (see `peak_memory`).
    """
    files = ({} if reference is None else {"uncompressed": reference}) | {"file": file}
    found: dict[str, dict[str, Any]] = {name: {"bytes": len(content)} for name, content in files.items()}
    for threads, suffix in ((1, ""), (0, "_all")):
        nets: dict[str, nn.Module] = {name: FileNet(content, inputs, threads) for name, content in files.items()}
        for batch in BATCHES:
            for name, values in latencies(nets, inputs.random(batch), seconds).items():
                found[name] |= {f"ort_ms_b{batch}{suffix}{statistic}": value for statistic, value in values.items()}
    for batch in BATCHES:
        found["file"][f"peak_mb_b{batch}"] = peak_memory(file, inputs, batch)
    found["file"]["cores"] = os.cpu_count() or 1
    return found | {"ran": operators_run(file, inputs)}

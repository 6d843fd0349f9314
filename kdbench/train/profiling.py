"""What a net costs to run: parameters, MACs, latency.

MACs are counted on the meta device by torch's FlopCounterMode, halved (it counts a multiply-add as two): matrix
products and convolutions, fused attention included. FLOPs = 2 x MACs; papers call either one "FLOPs".

Latency is measured with all nets interleaved, so that a neighbour's load hits them alike: the median of the pairwise
ratios moved 11% under load where sequential blocks moved 81%. On the CPU one thread is used; the record says so.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdbench.method.contract import InputSpec
from kdbench.method.inputs import Inputs, device_of

SECONDS = 1.0  # per batch size and net
BATCHES = (1, 64)


def count_macs(net: nn.Module, inputs: InputSpec) -> int:
    """Multiply-adds of one example. The net itself is left as it is."""
    blank = copy.deepcopy(net).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        blank(inputs.blank(1, "meta"))
    return counter.get_total_flops() // 2


def size(net: nn.Module, inputs: InputSpec) -> dict[str, int]:
    macs = count_macs(net, inputs)
    return {"params": sum(p.numel() for p in net.parameters()), "macs": macs, "flops": 2 * macs}


def profile(
    nets: dict[str, nn.Module], inputs: InputSpec, device: torch.device, seconds: float = SECONDS
) -> dict[str, dict[str, Any]]:
    """Size and latency of every net, by name.

    `cpu_ms_b1`, `cpu_ms_b64` (and `gpu_ms_...` where the device is one): milliseconds of one forward, median, with
    `..._p10` and `..._p90`; `..._vs_first` is the median of the pairwise ratios to the first net. Where inputs come in
    several shapes all these are of the largest; `macs_at_32` and `cpu_ms_b1_at_32` are of the one with 32 places
    (of nets that have so many).
    """
    found: dict[str, dict[str, Any]] = {name: dict(size(net, inputs)) for name, net in nets.items()}
    devices = [torch.device("cpu")] + ([device] if device.type == "cuda" else [])
    for place in devices:
        moved = {name: copy.deepcopy(net).to(place).eval() for name, net in nets.items()}
        for batch in BATCHES:
            given = inputs.random(batch, place)
            for name, values in latencies(moved, given, seconds).items():
                for statistic, value in values.items():
                    label = f"{'gpu' if place.type == 'cuda' else 'cpu'}_ms_b{batch}"
                    found[name][label + statistic] = value
    for other in (*inputs.others, *inputs.timed):
        for name, values in sizes_at(nets, other, seconds).items():
            found[name] |= values
    for values in found.values():
        values["cpu_threads"] = 1
    return found


def sizes_at(nets: dict[str, nn.Module], inputs: InputSpec, seconds: float) -> dict[str, dict[str, float]]:
    """MACs, and the median latency of one example on the CPU, for inputs of another shape."""
    at = "x".join(map(str, inputs.shape))
    moved = {name: copy.deepcopy(net).to("cpu").eval() for name, net in nets.items()}
    given = inputs.random(1, "cpu")
    moved = {name: net for name, net in moved.items() if takes(net, given)}
    times = latencies(moved, given, seconds / 4) if moved else {}
    return {n: {f"macs_at_{at}": count_macs(nets[n], inputs), f"cpu_ms_b1_at_{at}": times[n][""]} for n in moved}


def takes(net: nn.Module, inputs: Inputs) -> bool:
    """Can it read inputs of this shape? A net with too few places for a text of some length can't."""
    try:
        with torch.inference_mode():
            net(inputs)
    except (IndexError, RuntimeError):
        return False
    return True


def latencies(nets: dict[str, nn.Module], inputs: Inputs, seconds: float) -> dict[str, dict[str, float]]:
    """Interleaved timings in milliseconds: at least 5 rounds, then until `seconds` per net are spent."""
    threads = torch.get_num_threads()
    if device_of(inputs).type == "cpu":
        torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            times: dict[str, list[float]] = {name: [] for name in nets}
            for net in nets.values():  # warm up
                for _ in range(2):
                    _timed(net, inputs)
            start = time.perf_counter()
            while len(next(iter(times.values()))) < 5 or time.perf_counter() - start < seconds * len(nets):
                for name, net in nets.items():
                    times[name].append(_timed(net, inputs))
    finally:
        torch.set_num_threads(threads)
    first = next(iter(times.values()))
    return {name: _summary(values, first) for name, values in times.items()}


def _timed(net: Callable[[Inputs], Any], inputs: Inputs) -> float:
    """Milliseconds of one forward."""
    if device_of(inputs).type == "cuda":
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        net(inputs)
        after.record()
        after.synchronize()
        return before.elapsed_time(after)
    start = time.perf_counter()
    net(inputs)
    return 1000 * (time.perf_counter() - start)


def _summary(times: list[float], first: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    ratio = statistics.median(a / b for a, b in zip(times, first, strict=True))
    tenth = len(ordered) // 10
    return {
        "": round(statistics.median(times), 4),
        "_p10": round(ordered[tenth], 4),
        "_p90": round(ordered[-1 - tenth], 4),
        "_vs_first": round(ratio, 4),
    }

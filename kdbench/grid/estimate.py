"""How fast this device is, roughly, before anything is measured of what a plan will train."""

import time
from pathlib import Path

import torch

from kdbench.grid.forecast import CELL, START, Forecast, Stated, forecast
from kdbench.grid.plan import Plan

LAUNCH = 0.004  # seconds that a step takes however small the net is
REACHED = {"cpu": 0.4}  # of a convolution's speed, by the steps of our small nets and BERTs (Intel Xeon, AVX512)
NOMINAL = {"cpu": 4e10, "cuda": 5e12}  # floating-point operations a second, where a guess will do
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def estimate(made: Plan, device: torch.device, results: Path) -> float:
    """Seconds that it takes one device; small nets reach less than a convolution's speed."""
    return forecast(made, by_convolution(made, device), 1, results).seconds


def by_convolution(plan: Plan, device: torch.device) -> Stated:
    """By the speed of a typical convolution, just now."""
    dtype = HALF.get(plan.todo[0].train.precision, torch.float32)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    inputs = torch.rand(64, 64, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    flops = 2 * 64 * 16 * 16 * 64 * 64 * 9
    with torch.no_grad():
        for rounds in (3, 20):
            start = time.perf_counter()
            for _ in range(rounds):
                layer(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rate = rounds * flops / (time.perf_counter() - start)
    rate *= REACHED.get(device.type, 1.0)
    return Stated(plan, rate, LAUNCH, START, CELL, True, "its speed at a convolution just now")


def guess(plan: Plan, device: torch.device, count: int, results: Path) -> Forecast:
    """By a nominal speed: is the run worth measuring first, and which of its parts is how long?"""
    speed = Stated(plan, NOMINAL.get(device.type, NOMINAL["cuda"]), LAUNCH, START, CELL)
    return forecast(plan, speed, count, results)

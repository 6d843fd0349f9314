"""How long a plan will take, roughly, before anything is trained."""

import time

import torch

from kdbench.grid.plan import Plan


def estimate(made: Plan, device: torch.device) -> float:
    """Seconds, from the plan's multiply-adds and the rate of a typical convolution; small nets reach less of it."""
    precision = made.todo[0].train.precision
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    inputs = torch.rand(64, 64, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    macs = 64 * 16 * 16 * 64 * 64 * 9 / 1e9
    with torch.no_grad():
        for rounds in (3, 20):
            start = time.perf_counter()
            for _ in range(rounds):
                layer(inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rate = rounds * macs / (time.perf_counter() - start)
    launches = sum(c.train.epochs * made.shapes.task(c.dataset).num_train / c.train.batch_size for c in made.todo)
    return 2 * made.giga_macs() / rate + launches * 0.004

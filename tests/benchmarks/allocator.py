"""What it gains on a CPU that freed memory stays with the process (`kdbench.train.memory.keep_freed`).

    python tests/benchmarks/allocator.py [--rounds 3]

A cohort of ce, kd and fitnet on random pictures, in two processes that take turns, one with and one without; seconds of
a step (median of six), pages that the system had to clear, and the most memory. Larger pictures gain more: their
tensors are those that the C library would give back at once.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import grid
import torch
from common import CPU, NINE, frozen_teacher, machine, median, report, spread, trial

from kdbench.data import Splits
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.memory import peak_memory_mb
from kdbench.vision.batches import Images

PAIRS = [  # teacher, student, size of pictures, batch, precision
    ("cifar_resnet32x4", "cifar_resnet8x4", 32, 64, "bf16"),
    ("resnet34", "resnet18", 64, 64, "bf16"),
    ("resnet34", "resnet18", 224, 32, "bf16"),
    ("resnet18", "mobilenetv3_small_100", 128, 64, "fp32"),
]
STEPS = 8


def measure(teacher: str, student: str, size: int, batch: int, precision: str, keep: bool) -> dict[str, float]:
    load_methods()
    if not keep:
        grid.keep_freed = lambda: None
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (STEPS * batch, size, size, 3), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(STEPS * batch) % 10)
    splits = Splits(images, images, 10)
    train = Train(batch_size=batch, lr=1e-4, precision=precision, augment="crop_flip")
    frozen = frozen_teacher(teacher, splits)
    members = [trial(student, NINE[name], frozen, splits, train) for name in ("ce", "kd", "fitnet")]
    cohort, times = grid.Steps(members, frozen, splits, train, CPU), []
    for _ in range(STEPS):
        start = time.perf_counter()
        cohort.run(1)
        times.append(time.perf_counter() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return {"seconds": median(times[2:]), "faults": faults, "peak": peak_memory_mb(CPU)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--one", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.one:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    rows = []
    for pair in PAIRS:
        found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for _ in range(given.rounds):
            for keep, seen in found.items():
                command = [sys.executable, __file__, "--one", json.dumps([*pair, keep])]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                seen.append(json.loads(done.stdout.splitlines()[-1]))
        gains = [given_back["seconds"] / kept["seconds"] for kept, given_back in zip(*found.values(), strict=True)]
        teacher, student, size, batch, precision = pair
        rows.append({
            "pair": f"{teacher} → {student}", "pictures": f"{batch} x {size}²", "precision": precision,
            "step, s": median([kept["seconds"] for kept in found[True]]), "gain": spread(gains),
            "pages, thousands (kept)": median([kept["faults"] for kept in found[True]]) / 1000,
            "(given back)": median([other["faults"] for other in found[False]]) / 1000,
            "peak, MiB (kept)": median([kept["peak"] for kept in found[True]]),
            "(given back) ": median([other["peak"] for other in found[False]]),
        })  # fmt: skip
    report("allocator", {"rounds": given.rounds, **machine(CPU)}, rows)


if __name__ == "__main__":
    main()

"""What keeping a teacher's outputs gains for an objective that is added later, and what it takes on disk.

    python tests/benchmarks/teacher_cache.py [--pairs T/S ...] [--rounds 5] [--device cuda]

A lone member (kd) makes the steps of one short epoch; the teacher's forward is made in every step, or its outputs are
read from the file; both in every round. `MB an epoch` is for 50,000 pictures, logits and embeddings in bf16.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import NINE, frozen_teacher, machine, median, pictures, report, spread, trial, wait

from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.loop import Clock, Cohort, lock_step, with_progress
from kdbench.train.teacher_cache import DiskBudget, TeacherCache


def measure(pair: str, given: argparse.Namespace, device: torch.device, folder: Path) -> dict[str, Any]:
    first, second = pair.split("/")
    splits = pictures().to(device)
    few = replace(splits, train=splits.train[torch.arange(given.steps * given.batch, device=device)])
    train = Train(batch_size=given.batch, lr=1e-4, precision="bf16")
    teacher = frozen_teacher(first, splits, device)
    kept = TeacherCache(folder, device, DiskBudget(folder, 1e12))

    def seconds(row: str, cache: TeacherCache | None) -> float:
        member = trial(second, NINE[row], teacher, splits, train, device)
        cohort, clock, times = Cohort(teacher, few, train.batches, 0, cache=cache), Clock(), []
        for step, batch in enumerate(few.train.epoch(train, 0, 0)):
            wait(device)
            start = time.perf_counter()
            lock_step(cohort, [member], with_progress(cohort, batch, (0, step)), (0, step), clock)
            wait(device)
            times.append(time.perf_counter() - start)
        return median(times[1:])  # the first reads the file, and makes the optimizer's buffers

    seconds("rkd", kept)  # needs embeddings and logits: both are kept
    [path] = folder.glob("*.safetensors")
    asked, read = [], []
    for _ in range(given.rounds):
        asked.append(seconds("kd", None))
        kept.open_epoch(0)
        read.append(seconds("kd", kept))
    return {
        "pair": pair,
        "teacher's forward, ms a step": 1000 * median(asked),
        "outputs read, ms a step": 1000 * median(read),
        "speed-up": spread([a / b for a, b in zip(asked, read, strict=True)]),
        "MB an epoch": path.stat().st_size / (given.steps * given.batch) * 50_000 / 1e6,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pairs = ["cifar_resnet32x4/cifar_resnet8x4", "cifar_resnet56/cifar_resnet20"]
    options.add_argument("--pairs", nargs="+", default=pairs)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    load_methods()
    rows = []
    for pair in given.pairs:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(pair, given, torch.device(given.device), Path(folder)))
    report("teacher cache", {"rounds": given.rounds, **machine(torch.device(given.device))}, rows)


if __name__ == "__main__":
    main()

"""The most memory that a cohort takes: one process for each number of members, so that nothing is left from another.

    KDBENCH_DATA=DIR python tests/benchmarks/memory.py [--members 1 9 15]

Steps of the engine's lock-step at batch 64 in bf16; on the CPU the resident set of the whole process (torch, timm and
CIFAR-100 in memory included: the row of 0 members), on a GPU what torch allocated at most.
"""

import argparse
import json
import subprocess
import sys
from itertools import islice

import torch
from common import MORE, NINE, frozen_teacher, machine, pictures, report, trial
from grid import Steps

from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.memory import peak_memory_mb


def peak(given: argparse.Namespace, members: int) -> float:
    """MiB."""
    load_methods()
    device = torch.device(given.device)
    splits = pictures().to(device)
    train = Train(batch_size=given.batch, lr=1e-4, precision="bf16", augment="crop_flip")
    if members:
        teacher = frozen_teacher(given.teacher, splits, device)
        rows = islice({**NINE, **MORE}.values(), members)
        trials = [trial(given.student, row, teacher, splits, train, device) for row in rows]
        Steps(trials, teacher, splits, train, device).run(3)
    return peak_memory_mb(device)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--teacher", default="cifar_resnet32x4")
    options.add_argument("--student", default="cifar_resnet8x4")
    options.add_argument("--members", type=int, nargs="+", default=[0, 1, 9, 15])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--device", default="cpu")
    options.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.alone:
        print(json.dumps(peak(given, given.members[0])))
        return
    rows = []
    for members in given.members:
        same = ["--teacher", given.teacher, "--student", given.student, "--batch", str(given.batch)]
        command = [sys.executable, __file__, *same, "--device", given.device, "--alone", "--members", str(members)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"members": members, "peak, MiB": json.loads(done.stdout.splitlines()[-1])})
    about = {"pair": f"{given.teacher} -> {given.student}", "batch": given.batch}
    report("memory", {**about, **machine(torch.device(given.device))}, rows)


if __name__ == "__main__":
    main()

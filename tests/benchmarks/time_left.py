"""How far what is said of a run's time is from the truth: `init`, `plan`, the bar's first line, and the bar as it runs.

    python tests/benchmarks/time_left.py [--minutes 10] [--size 64] [--teacher T] [--student S]

A folder of 250 photographs is made (those of the tests), `init` proposes a suite for the minutes, `plan` tells its
time, it is run, and every line of the bar is held against the seconds that were left when it stood there. From a fifth
of the run on (the second minute of ten) it should be within 30%.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from common import machine
from jpegs import folder_of_jpegs
from rich.console import Console
from tabulate import tabulate

from kdbench.api import run_suite
from kdbench.grid import progress
from kdbench.options import Options

SETTLED = 0.2  # of the run: the second minute of ten


class Stamped(io.StringIO):
    """A terminal's lines, each with the moment at which it came."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, str]] = []

    def write(self, text: str) -> int:
        self.lines += [(time.monotonic(), line) for line in text.splitlines() if line.strip()]
        return len(text)


def seconds(text: str) -> float:
    """`1:02:03` or `2:03`"""
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def call(*words: str) -> tuple[str, float]:
    """A command's output, and how long it took."""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "kdbench", *words], capture_output=True, text=True, check=True)
    return done.stdout, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--size", default="64")
    parser.add_argument("--teacher", default="resnet18")
    parser.add_argument("--student", default="mobilenetv3_small_050")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder_of_jpegs(Path("photos"), 150, 100, classes=2)
        nets = ["--teacher", given.teacher, "--student", given.student, "--size", given.size]
        told, took = call("init", "photos", *nets, "--budget", f"{60 * given.minutes:g}s")
        print(told, f"\ninit took {took:.0f} s", flush=True)
        print(call("plan", "suite.yaml")[0].strip().splitlines()[-1], flush=True)
        progress.EVERY = 5.0
        screen, start = Stamped(), time.monotonic()
        run_suite(Path("suite.yaml"), Options(jobs=None), Console(file=screen, width=200))
        end = time.monotonic()
    rows = []
    for moment, line in screen.lines:
        if match := re.match(r"\s*(\d+)%  ([\d:]+) left", line):
            truth, said = end - moment, seconds(match[2])
            rows.append([round(moment - start), match[1], round(said), round(truth), said / truth])
    print("\n".join(line for _, line in screen.lines if "about" in line or "trained in" in line))
    print(tabulate(rows, ["seconds", "%", "left: said", "left: true", "ratio"], floatfmt=".2f"))
    settled = [row[-1] for row in rows if row[0] >= SETTLED * (end - start) and row[3] > 10]
    print(machine(torch.device("cpu")))
    print(f"the run took {end - start:.0f} s; from a fifth on {min(settled):.2f} to {max(settled):.2f} of the truth")


if __name__ == "__main__":
    main()

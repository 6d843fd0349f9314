"""A cohort against one by one, and against the field's plain loop (see plain_loop.py).

    KDBENCH_DATA=DIR python tests/benchmarks/grid.py [--teacher T --student S] [--members 1 3 9 15] [--rounds 5]

`cohort`: M objectives in lock-step, bf16, one pass of the data, one forward of the teacher. `one by one`: the same code
with one member at a time. `plain`: the plain loop, one method after another. In every round each of the three makes a
few steps of every method in turn, and ratios are taken within the round: medians, least and most. Evaluation is left
out everywhere (the plain loop would lose more: it evaluates every method by itself). The last columns say what a
cohort's step is spent on, and the price of its last member over a student's own step (ce's).
"""

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from common import MORE, NINE, frozen_teacher, machine, median, pictures, report, spread, trial, wait
from plain_loop import Apart

from kdbench.data import Splits
from kdbench.method.contract import Batch
from kdbench.nets import Net
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.loop import Clock, Cohort, lock_step, with_progress
from kdbench.train.memory import keep_freed
from kdbench.train.trial import Trial


class Steps:
    """The engine's own lock-step over `trials`; `run(steps)` goes on where it stopped."""

    def __init__(self, trials: list[Trial], teacher: Net, splits: Splits, train: Train, device: torch.device) -> None:
        keep_freed()  # as the engine does
        self.trials, self.cohort = trials, Cohort(teacher, splits, train.batches, 0)
        self.clock, self.batches = Clock(), self.forever()

    def forever(self) -> Iterator[tuple[int, Batch]]:
        """The batches of epoch 0 but the last, which is smaller, again and again."""
        while True:
            batches = self.cohort.splits.train.epoch(self.cohort.batches, 0, 0)
            yield from enumerate(islice(batches, self.cohort.steps - 1))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.clock.lap()
            step, batch = next(self.batches)
            lock_step(self.cohort, self.trials, with_progress(self.cohort, batch, (0, step)), (0, step), self.clock)


def seconds(runner: Steps, steps: int, device: torch.device) -> float:
    """Of one step."""
    wait(device)
    start = time.perf_counter()
    runner.run(steps)
    wait(device)
    return (time.perf_counter() - start) / steps


def measure(given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    splits = pictures()
    shown = splits.to(device)
    train = Train(batch_size=given.batch, lr=1e-4, precision=given.precision, augment="crop_flip")
    teacher, rows = frozen_teacher(given.teacher, splits, device), {**NINE, **MORE}
    names = list(islice(rows, max(given.members)))
    make = lambda name: trial(given.student, rows[name], teacher, shown, train, device)  # noqa: E731
    cohorts = {m: Steps([make(n) for n in names[:m]], teacher, shown, train, device) for m in given.members}
    alone = {n: Steps([make(n)], teacher, shown, train, device) for n in names}
    plain = None if given.no_plain else Apart(given.teacher, given.student, names, train, device)
    for runner in [*cohorts.values(), *alone.values()]:
        runner.run(2)  # warm: the optimizers' buffers, kernels chosen by shape
    times: dict[str, list[float]] = {}
    for _ in range(given.rounds):
        for kind, runners in (("alone", alone), ("cohort", cohorts)):
            for name, runner in runners.items():
                times.setdefault(f"{kind} {name}", []).append(seconds(runner, given.steps, device))
        for name in names if plain else []:
            times.setdefault(f"plain {name}", []).append(plain.seconds(name, given.steps))
    if plain:
        plain.close()
    return [row(m, names, times, cohorts[m], given) for m in given.members]


def row(m: int, names: list[str], times: dict[str, list[float]], cohort: Steps, given: argparse.Namespace) -> Any:
    def total(kind: str) -> list[float]:
        return [sum(parts) for parts in zip(*(times[f"{kind} {n}"] for n in names[:m]), strict=True)]

    own = times[f"cohort {m}"]
    spent = cohort.trials
    share = sum(t.seconds["step"] for t in spent), spent[-1].seconds["teacher"], spent[-1].seconds["data"]
    teacher = max(t.seconds["teacher"] for t in spent)
    whole = share[0] + teacher + share[2]
    found = {
        "members": m,
        "cohort's step, s": median(own),
        "examples/s a member": given.batch / median(own),
        "x one by one": spread([a / b for a, b in zip(total("alone"), own, strict=True)]),
    }
    if not given.no_plain:
        found["x plain loop"] = spread([a / b for a, b in zip(total("plain"), own, strict=True)])
        found["plain, examples/s a method"] = given.batch * m / median(total("plain"))
    ce = spent[0].seconds["step"] / spent[0].done
    return found | {
        "students": f"{share[0] / whole:.0%}",
        "teacher": f"{teacher / whole:.0%}",
        "data": f"{share[2] / whole:.2%}",
        "last member / ce": spent[-1].seconds["step"] / spent[-1].done / ce,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--teacher", default="cifar_resnet32x4")
    options.add_argument("--student", default="cifar_resnet8x4")
    options.add_argument("--members", type=int, nargs="+", default=[1, 3, 9, 15])
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=2)
    options.add_argument("--precision", default="bf16")
    options.add_argument("--device", default="cpu")
    options.add_argument("--no-plain", action="store_true", help="leave the plain loop out")
    given = options.parse_args()
    load_methods()
    device = torch.device(given.device)
    about = {"pair": f"{given.teacher} -> {given.student}", "batch": given.batch, "rounds": given.rounds}
    report("grid", {**about, **machine(device)}, measure(given, device))


if __name__ == "__main__":
    main()

"""What the engine costs beyond the operations themselves.

    KDBENCH_DATA=DIR python tests/benchmarks/engine_overhead.py [--teacher T --student S] [--members 3] [--rounds 15]

`engine`: the lock-step over a cohort of kd members, data included. `bare`: the same operations as a script would write
them, with the same nets, batches, precision, memory layout, loss and optimizer, and none of the engine's parts
(no trials, no objectives, no random states, no sums of losses, no clocks). Both take turns, step by step; the ratio is
that of neighbours in time: median, least and most. Also the data path by itself: pictures a second, and its share.

    python tests/benchmarks/engine_overhead.py --checks [--precision fp32] [--rounds 200]

What is looked at after every member (writes into what it is lent, settings of the process, threads that it started):
steps with and without these looks take turns, by the process's own CPU time; median and quartiles of the ratios.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from common import frozen_teacher, machine, median, pictures, report, spread, trial, wait
from grid import Steps

from kdbench.data import Splits
from kdbench.method.contract import Batch
from kdbench.nets import Net
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods

ROW = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}


def epochs(splits: Splits, train: Train) -> Iterator[Batch]:
    """The batches of epoch after epoch."""
    number = 0
    while True:
        yield from splits.train.epoch(train, 0, number)
        number += 1


def bare(students: list[Net], teacher: Net, splits: Splits, train: Train) -> Callable[[], None]:
    """`step()` of a script that does just this: KD for several students on one batch, one teacher's forward."""
    batches, kind = epochs(splits, train), splits.train.targets.device.type
    models = [net.model for net in students]
    mean, std = students[0].mean, students[0].std
    optimizers = [
        torch.optim.SGD(m.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay, foreach=True)
        for m in models
    ]

    def step() -> None:
        batch = next(batches)
        images = (batch.images - mean) / std
        with torch.autocast(kind, torch.bfloat16), torch.no_grad():
            taught = teacher.model(images).float()
        for model, optimizer in zip(models, optimizers, strict=True):
            with torch.autocast(kind, torch.bfloat16):
                logits = model(images)
            logits = logits.float()
            soft = F.kl_div((logits / 4).log_softmax(1), (taught / 4).softmax(1), reduction="batchmean") * 16
            loss = 0.1 * F.cross_entropy(logits, batch.target) + 0.9 * soft
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return step


class Unguarded:
    """In the place of `kdbench.train.lent.Guard`: looks at nothing."""

    spoilt = behind = False

    def __init__(self, lent: Any = None) -> None:
        pass

    def __enter__(self) -> "Unguarded":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def of_checks(cohort: Steps, rounds: int) -> dict[str, Any]:
    """Steps with what is looked at after every member, and without; CPU milliseconds and ratios."""

    def seconds(checked: bool) -> float:
        start = time.process_time()
        if checked:
            cohort.run(1)
        else:
            with (
                patch("kdbench.train.loop.Guard", Unguarded),
                patch("kdbench.train.loop.Lent", lambda *given: None),
            ):
                cohort.run(1)
        return time.process_time() - start

    pairs = []
    for number in range(rounds):
        first = seconds(bool(number % 2))
        other = seconds(not number % 2)
        pairs.append((first, other) if number % 2 else (other, first))
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return {
        "members": len(cohort.trials),
        "checked, CPU ms": 1000 * median([a for a, _ in pairs]),
        "unchecked, CPU ms": 1000 * median([b for _, b in pairs]),
        "checked / unchecked": f"{middle:.4f} ({low:.4f}–{high:.4f})",
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--teacher", default="cifar_resnet32x4")
    options.add_argument("--student", default="cifar_resnet8x4")
    options.add_argument("--members", type=int, default=3)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="bf16")
    options.add_argument("--checks", action="store_true", help="what it costs to look at what members write to")
    given = options.parse_args()
    load_methods()
    device = torch.device(given.device)
    splits = pictures().to(device)
    train = Train(batch_size=given.batch, lr=1e-4, precision=given.precision, augment="crop_flip")
    teacher = frozen_teacher(given.teacher, splits, device)
    members = [trial(given.student, ROW, teacher, splits, train, device) for _ in range(given.members)]
    about = {"pair": f"{given.teacher} -> {given.student}", "batch": given.batch, "rounds": given.rounds}
    if given.checks:
        cohort = Steps(members, teacher, splits, train, device)
        cohort.run(5)
        return report(
            "checks", {**about, "precision": given.precision, **machine(device)}, [of_checks(cohort, given.rounds)]
        )
    script = bare([copy.deepcopy(m.net) for m in members], teacher, splits, train)
    cohort = Steps(members, teacher, splits, train, device)
    batches = epochs(splits, train)

    def timed(work: Callable[[], object]) -> float:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - start

    for _ in range(3):
        cohort.run(1), script()
    times: dict[str, list[float]] = {"engine": [], "bare": [], "data": []}
    for number in range(given.rounds):
        pair = [("engine", lambda: cohort.run(1)), ("bare", script)]
        for name, work in pair if number % 2 else pair[::-1]:
            times[name].append(timed(work))
        times["data"].append(timed(lambda: next(batches)))
    ratios = [a / b for a, b in zip(times["engine"], times["bare"], strict=True)]
    row = {
        "members": given.members,
        "engine, ms": 1000 * median(times["engine"]),
        "bare, ms": 1000 * median(times["bare"]),
        "engine / bare": spread(ratios),
        "data, examples/s": given.batch / median(times["data"]),
        "data / a student's step": f"{median(times['data']) / (members[0].seconds['step'] / members[0].done):.2%}",
    }
    report("engine overhead", {**about, **machine(device)}, [row])


if __name__ == "__main__":
    main()

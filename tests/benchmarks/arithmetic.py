"""What would folding the teacher's batch norm, and `torch.compile`, gain?

    python tests/benchmarks/arithmetic.py [--pairs cifar_resnet32x4/cifar_resnet8x4 ...] [--rounds 15] [--device cuda]

`folded`: the teacher with its batch norms left out, which costs what convolutions with folded weights would cost.
`compiled`: the default mode, static shapes. Each is interleaved with the net as it is; medians of the rounds' ratios,
least and most. `warm-up`: seconds of the first call; `pays after`: how many steps of a cohort of one until it is
earned back (a cohort of nine of one net needs a ninth). `convolutions alone`: the student without norms and
activations, a bound on what any fusing of these could gain.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import frozen_teacher, machine, median, net, pictures, report, spread, wait
from torch import nn

from kdbench.nets import Net
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.evaluation import autocast
from kdbench.train.optim import make_optimizer

Work = Callable[[], None]


def without(net: Net, *kinds: type[nn.Module]) -> Net:
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kinds):
                setattr(module, name, nn.Identity())
    return net


def forward(teacher: Net, images: torch.Tensor, compiled: bool) -> Work:
    called: Any = torch.compile(teacher.model, dynamic=False) if compiled else teacher.model

    def work() -> None:
        with torch.no_grad(), autocast(images.device, "bf16"):
            called(teacher.normalise(images))

    return work


def step(student: Net, images: torch.Tensor, target: torch.Tensor, compiled: bool) -> Work:
    optimizer = make_optimizer(list(student.parameters()), Train(lr=1e-4))
    called: Any = torch.compile(student.model, dynamic=False) if compiled else student.model

    def work() -> None:
        with autocast(images.device, "bf16"):
            logits = called(student.normalise(images))
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(logits.float(), target).backward()
        optimizer.step()

    return work


def seconds(work: Work, device: torch.device, times: int = 2) -> float:
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - start) / times


def compared(what: str, before: Work, after: Work, rounds: int, device: torch.device) -> dict[str, Any]:
    seconds(before, device)
    warm_up = seconds(after, device, 1)
    seconds(after, device)
    both = [(seconds(before, device), seconds(after, device)) for _ in range(rounds)]
    saved = median([a - b for a, b in both])
    return {
        "what": what,
        "as it is, ms": 1000 * median([a for a, _ in both]),
        "changed, ms": 1000 * median([b for _, b in both]),
        "speed-up": spread([a / b for a, b in both]),
        "warm-up, s": warm_up,
        "pays after": f"{warm_up / saved:,.0f} steps" if saved > 0 else "never",
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pairs = ["cifar_resnet32x4/cifar_resnet8x4", "cifar_resnet56/cifar_resnet20"]
    options.add_argument("--pairs", nargs="+", default=pairs)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    load_methods()
    device, splits = torch.device(given.device), pictures()
    batch = next(splits.to(device).train.epoch(Train(batch_size=given.batch), 0, 0))
    rows = []
    for pair in given.pairs:
        first, second = pair.split("/")
        teacher = forward(frozen_teacher(first, splits, device), batch.images, compiled=False)
        for what, folded, compiled in (("folded", True, False), ("compiled", False, True), ("both", True, True)):
            own = frozen_teacher(first, splits, device)
            work = forward(without(own, nn.BatchNorm2d) if folded else own, batch.images, compiled)
            rows.append(compared(f"{first}, forward, {what}", teacher, work, given.rounds, device))
        students = [net(second, splits, "student").to(device).to(memory_format=torch.channels_last) for _ in range(3)]
        without(students[2], nn.BatchNorm2d, nn.ReLU)
        plain, *changed = (step(s, batch.images, batch.target, compiled=i == 1) for i, s in enumerate(students))
        for what, work in zip(("compiled", "convolutions alone"), changed, strict=True):
            rows.append(compared(f"{second}, step, {what}", plain, work, given.rounds, device))
    report("arithmetic", {"batch": given.batch, "rounds": given.rounds, **machine(device)}, rows)


if __name__ == "__main__":
    main()

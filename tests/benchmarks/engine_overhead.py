"""What the engine costs beyond the operations themselves.

    KDBENCH_DATA=DIR python tests/benchmarks/engine_overhead.py [--teacher T --student S] [--members 3] [--rounds 15]

`engine`: the lock-step over a cohort of kd members, data included. `bare`: the same operations as a script would write
them, with the same nets, batches, precision, memory layout, loss and optimizer, and none of the engine's parts
(no trials, no objectives, no random states, no sums of losses, no clocks). Both take turns, step by step; the ratio is
that of neighbours in time: median, least and most. Also the data path by itself: pictures a second, and its share.
"""

import argparse
import copy
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import frozen_teacher, machine, median, pictures, report, spread, trial, wait
from grid import Cohort

from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.vision.batches import Loader, Splits
from kdbench.vision.nets import Net

ROW = {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}


def bare(students: list[Net], teacher: Net, splits: Splits, train: Train) -> Callable[[int], None]:
    """`step(number)` of a script that does just this: KD for several students on one batch, one teacher's forward."""
    loader = Loader(splits.train, train.batch_size, train.augment, seed=0)
    epoch, kind = loader.epoch(0), splits.train.targets.device.type
    models = [net.model for net in students]
    mean, std = students[0].mean, students[0].std
    optimizers = [
        torch.optim.SGD(m.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay, foreach=True)
        for m in models
    ]

    def step(number: int) -> None:
        batch = epoch.batch(number % (loader.steps - 1), 0.5)
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


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--teacher", default="cifar_resnet32x4")
    options.add_argument("--student", default="cifar_resnet8x4")
    options.add_argument("--members", type=int, default=3)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    load_methods()
    device = torch.device(given.device)
    splits = pictures().to(device)
    train = Train(batch_size=given.batch, lr=1e-4, precision="bf16", augment="crop_flip")
    teacher = frozen_teacher(given.teacher, splits, device)
    members = [trial(given.student, ROW, teacher, splits, train, device) for _ in range(given.members)]
    script = bare([copy.deepcopy(m.net) for m in members], teacher, splits, train)
    cohort = Cohort(members, teacher, splits, train, device)
    epoch = cohort.epoch

    def timed(work: Callable[[], object]) -> float:
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        return time.perf_counter() - start

    for number in range(3):
        cohort.run(1), script(number)
    times: dict[str, list[float]] = {"engine": [], "bare": [], "data": []}
    for number in range(given.rounds):
        pair = [("engine", lambda: cohort.run(1)), ("bare", lambda n=number: script(n))]
        for name, work in pair if number % 2 else pair[::-1]:
            times[name].append(timed(work))
        times["data"].append(timed(lambda n=number: epoch.batch(n, 0.5)))
    ratios = [a / b for a, b in zip(times["engine"], times["bare"], strict=True)]
    row = {
        "members": given.members,
        "engine, ms": 1000 * median(times["engine"]),
        "bare, ms": 1000 * median(times["bare"]),
        "engine / bare": spread(ratios),
        "data, images/s": given.batch / median(times["data"]),
        "data / a student's step": f"{median(times['data']) / (members[0].seconds['step'] / members[0].done):.2%}",
    }
    about = {"pair": f"{given.teacher} -> {given.student}", "batch": given.batch, "rounds": given.rounds}
    report("engine overhead", {**about, **machine(device)}, [row])


if __name__ == "__main__":
    main()

"""Does a net learn as fast as the recipe lets it? Our loop beside the field's plain loop, epoch by epoch.

    KDBENCH_DATA=DIR python tests/benchmarks/learning.py [--nets cifar_resnet20 cifar_resnet8] [--epochs 3] [--seeds 1]

The recipe of `suites/cifar100.yaml` before its first step down: SGD, batch 64, lr 0.05, momentum 0.9, weight decay
5e-4, crop and flip, labels alone. Both sides begin with the same weights; order and augmentation are drawn apart, so
that the columns agree as two seeds do, not to the digit. `loss`: mean over the epoch's training steps, with the weights
of each moment (its noise is small); `top1`: on the test set after the epoch (of one epoch at a high rate, so noisy).
"""

import argparse
import gc
from typing import Any

import torch
from common import CPU, frozen_teacher, machine, pictures, report, trial
from plain_loop import PlainLoop, frozen_plain

from kdbench.data import Splits
from kdbench.suite.load import Train
from kdbench.suite.plugins import load_methods
from kdbench.train.evaluation import evaluate_one
from kdbench.train.loop import Cohort, train_cohort

LABELS: dict[str, Any] = {"ce": 1}


def ours(model: str, splits: Splits, train: Train, seed: int) -> dict[str, list[float]]:
    member = trial(model, LABELS, frozen_teacher(model, splits), splits, train)
    train_cohort(Cohort(None, splits, train.batches, seed), [member])
    return member.curves


def plain(model: str, splits: Splits, train: Train, seed: int) -> dict[str, list[float]]:
    torch.manual_seed(1000 + seed)  # the loader's order and its workers' draws
    train = train.model_copy(update={"precision": "fp32"})
    member = trial(model, LABELS, frozen_teacher(model, splits), splits, train)
    mean, std = member.net.mean.clone(), member.net.std.clone()
    loop = PlainLoop(member, frozen_plain(frozen_teacher(model, splits)), splits, train, CPU)
    curves: dict[str, list[float]] = {"loss/total": [], "test_top1": []}
    for _ in range(train.epochs):
        total = 0.0
        for _ in range(len(loop.loader)):
            loop.run(1)
            total += loop.meters["loss"]
        curves["loss/total"].append(total / len(loop.loader))
        member.net.mean.copy_(mean), member.net.std.copy_(std)  # the test pictures are not normalised beforehand
        curves["test_top1"].append(evaluate_one(member.net.eval(), splits.test, "fp32").scores["top1"])
        member.net.train().mean.zero_(), member.net.std.fill_(1)
    del loop
    gc.collect()  # else the next loader's workers would find this one's
    return curves


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--nets", nargs="+", default=["cifar_resnet20", "cifar_resnet8"])
    options.add_argument("--epochs", type=int, default=3)
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--precision", default="bf16")
    given = options.parse_args()
    load_methods()
    splits = pictures()
    train = Train(epochs=given.epochs, precision=given.precision, schedule={"kind": "constant"})
    rows = []
    for model in given.nets:
        for seed in range(given.seeds):
            found = {"ours": ours(model, splits, train, seed), "plain": plain(model, splits, train, seed)}
            for epoch in range(given.epochs):
                row = {"net": model, "seed": seed, "epoch": epoch + 1}
                for what in ("loss/total", "test_top1"):
                    row |= {f"{what} {side}": curves[what][epoch] for side, curves in found.items()}
                rows.append(row)
                print(row, flush=True)
    report("learning", machine(CPU), rows)


if __name__ == "__main__":
    main()

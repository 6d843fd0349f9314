"""What each method adds to a training step: its time and peak memory over plain cross-entropy's.

    python tests/benchmarks/method_costs.py [--device cuda] [--rounds 7] [--only PATTERN]

cifar_resnet32x4 -> cifar_resnet8x4, 32 x 32 pictures, batch 64, bf16, 50,000 pictures in the training set (random
ones: arithmetic does not care). A step is all that a member of a cohort does: forward, objective {ce: 1, METHOD: 1},
backward, optimizer; the teacher's forward is shared by the cohort and left out. Every step of a method follows a plain
one, and their ratio is taken: medians of the rounds. On the CPU one thread is used and its own seconds are counted, so
that a busy neighbour counts little; on a GPU the clock's. Memory: the most allocated in a step beyond what lay there
before it. Writes one line of JSON and a table.
"""

import argparse
import json
import statistics
import sys
import time
from fnmatch import fnmatchcase

import torch
from torch.profiler import ProfilerActivity, profile

from kdbench.method.contract import VIEWS, Batch, Inapplicable, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.nets import Net, build_net
from kdbench.suite.load import ModelSpec, Train
from kdbench.suite.objectives import BASELINE, objective
from kdbench.suite.plugins import load_methods
from kdbench.train.memory import keep_freed
from kdbench.train.objective import built_objective, needs_of, student_needs_of
from kdbench.train.start import training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial, forward_teacher
from kdbench.vision.batches import picture_task

BATCH, SIDE, TASK = 64, 32, picture_task(100, 32, 50_000)
TRAIN = Train(batch_size=BATCH, lr=1e-9, precision="bf16")


def student_net(*seed: object) -> Net:
    return build_net(ModelSpec(model="cifar_resnet8x4"), TASK, *seed)


def make_trial(name: str, teacher: Net, task: Task, device: torch.device) -> Trial:
    """Raises Inapplicable."""
    net = student_net("student").to(device)
    built = built_objective(objective({BASELINE: 1.0, name: 1.0}), net, teacher, task, device, 0)
    if "peer" in student_needs_of([name]):
        built.peer = student_net("peer").to(memory_format=torch.channels_last)
    return Trial(net, built, TRAIN, device, 0)


def make_batch(targets: torch.Tensor, device: torch.device) -> Batch:
    index = torch.randperm(TASK.num_train, device=device)[:BATCH]
    pictures = {view: torch.rand(BATCH, 3, SIDE, SIDE, device=device) for view in ("images", *VIEWS)}
    return Batch(pictures.pop("images"), targets[index], index, torch.tensor(0.5, device=device), dict(pictures))


def seconds(trial: Trial, batch: Batch, teacher_out: Outputs) -> float:
    """Of one step."""
    clock = time.perf_counter if trial.device.type == "cuda" else time.process_time
    start = clock()
    trial.step(batch, teacher_out, torch.tensor(TRAIN.lr))
    if trial.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def peak_mib(trial: Trial, batch: Batch, teacher_out: Outputs) -> float:
    """The most allocated within one step beyond what was there before it."""
    if trial.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        seconds(trial, batch, teacher_out)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        seconds(trial, batch, teacher_out)
    now = most = 0
    results = seen.profiler.kineto_results  # every allocation and release, in order
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most / 2**20


def measure(trials: dict[str, Trial], teacher: Net, batch: Batch, rounds: int) -> dict[str, dict[str, float]]:
    teacher_out = forward_teacher(teacher, batch, needs_of(trials), TRAIN.precision)
    for trial in trials.values():
        seconds(trial, batch, teacher_out)  # warms up; the optimizer makes its buffers
    memory = {name: peak_mib(trial, batch, teacher_out) for name, trial in trials.items()}
    times: dict[str, list[float]] = {name: [] for name in trials}
    ratios: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(rounds):
        for name, trial in trials.items():
            plain = seconds(trials[BASELINE], batch, teacher_out)
            times[name].append(seconds(trial, batch, teacher_out))
            ratios[name].append(times[name][-1] / plain)
    return {
        name: {
            "ms": 1000 * statistics.median(times[name]),
            "ratio": statistics.median(ratios[name]),
            "least": min(ratios[name]),
            "most": max(ratios[name]),
            "mib": memory[name],
        }
        for name in trials
    }


def table(found: dict[str, dict[str, float]]) -> str:
    lines = ["| method | step, ms | over ce | least–most | peak, MiB | over ce, MiB |", "|:--|--:|--:|:-:|--:|--:|"]
    for name, f in sorted(found.items(), key=lambda item: -item[1]["ratio"]):
        cells = [name, f"{f['ms']:.0f}", f"{f['ratio']:.2f}", f"{f['least']:.2f}–{f['most']:.2f}", f"{f['mib']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {f['mib'] - found[BASELINE]['mib']:+.0f} |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--only", default="*", metavar="PATTERN")
    given = options.parse_args()
    load_methods()
    keep_freed()  # as the engine does
    device = torch.device(given.device)
    torch.set_num_threads(1)
    targets = torch.arange(TASK.num_train, device=device) % TASK.num_classes
    task = training_task(TASK, TRAIN, targets)
    teacher = freeze(build_net(ModelSpec(model="cifar_resnet32x4"), task, "teacher"), device)
    trials = {}
    for name in [BASELINE] + [n for n in METHODS if n != BASELINE and fnmatchcase(n, given.only)]:
        try:
            trials[name] = make_trial(name, teacher, task, device)
        except Inapplicable as reason:
            print(f"left out: {reason}", file=sys.stderr)
    found = measure(trials, teacher, make_batch(targets, device), given.rounds)
    about = {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
        "torch": torch.__version__,
    }
    print(json.dumps({**about, "methods": {n: {k: round(v, 3) for k, v in f.items()} for n, f in found.items()}}))
    print(table(found))


if __name__ == "__main__":
    main()

"""`kdbench profile`: parameters, multiply-adds and latency of models, side by side."""

import argparse

from kdbench.api import choose_device
from kdbench.commands.console import console, table
from kdbench.commands.inventory import build_nets, task_given
from kdbench.method.kinds import CLASSES
from kdbench.report.text import human
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.train.profiling import profile


def run(given: argparse.Namespace) -> int:
    """Raises UserError when a model is unknown or can't be built."""
    load_methods()
    for path in given.plugin:
        load_plugin(path)
    task = task_given(given)
    nets = build_nets(given.models, task)
    device = choose_device(given.device)
    found = profile(nets, task.inputs, device)
    kinds = ["cpu"] + (["gpu"] if device.type == "cuda" else [])
    timings = [f"{kind}_ms_b{batch}" for kind in kinds for batch in (1, 64)]
    made = table("model", ">params", ">MACs", *(f">{name}" for name in timings), ">vs first (b1)")
    for name, values in found.items():
        row = [human(values["params"]), human(values["macs"])]
        row += [f"{values[t]:.2f} ({values[t + '_p10']:.2f}–{values[t + '_p90']:.2f})" for t in timings]
        made.add_row(name, *row, f"{values['cpu_ms_b1_vs_first']:.2f}x")
    out = console()
    out.print(made)
    what = f"{given.size} x {given.size} pictures" if given.dataset is None else f"{given.dataset} ({task.inputs})"
    said = f"{task.num_classes} classes" if task.kind == CLASSES.name else task.kind
    out.print(f"{what}, {said}; median (10%–90%) of interleaved runs; CPU: one thread; "
              "FLOPs = 2 x MACs", soft_wrap=True)  # fmt: skip
    return 0

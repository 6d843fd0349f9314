"""`kdbench profile`: parameters, multiply-adds and latency of models, side by side."""

import argparse

from kdbench.api import choose_device
from kdbench.commands.console import console, table
from kdbench.commands.inventory import build_nets
from kdbench.report.text import human
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.train.profiling import profile
from kdbench.vision.batches import pictures


def run(given: argparse.Namespace) -> int:
    """Raises UserError when a model is unknown or can't be built."""
    size, classes = given.size, given.classes
    load_methods()
    for path in given.plugin:
        load_plugin(path)
    nets = build_nets(given.models, size, classes)
    device = choose_device(given.device)
    found = profile(nets, pictures(size, size), device)
    kinds = ["cpu"] + (["gpu"] if device.type == "cuda" else [])
    timings = [f"{kind}_ms_b{batch}" for kind in kinds for batch in (1, 64)]
    made = table("model", ">params", ">MACs", *(f">{name}" for name in timings), ">vs first (b1)")
    for name, values in found.items():
        row = [human(values["params"]), human(values["macs"])]
        row += [f"{values[t]:.2f} ({values[t + '_p10']:.2f}–{values[t + '_p90']:.2f})" for t in timings]
        made.add_row(name, *row, f"{values['cpu_ms_b1_vs_first']:.2f}x")
    out = console()
    out.print(made)
    out.print(f"{size} x {size} pictures, {classes} classes; median (10%–90%) of interleaved runs; CPU: one thread; "
              "FLOPs = 2 x MACs", soft_wrap=True)  # fmt: skip
    return 0

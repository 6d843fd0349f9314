"""What `plan`, `list`, `profile` and `sync` print."""

import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kdbench.api import Options, choose_device
from kdbench.api import plan as make
from kdbench.leaderboard import human
from kdbench.plan import Plan
from kdbench.progress import clock
from kdbench.records import Record, Records
from kdbench.registry import DATASETS, METHODS, load_methods, load_plugin


def console() -> Console:
    """Rich's tables; without a terminal as wide as they need to be."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=220)


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.strip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def show_plan(suite: Path, options: Options) -> int:
    """Cells and cohorts, what is done, what does not apply and why, and a rough time."""
    made = make(suite, **vars(options))
    out = console()
    name, todo = made.suite.name, made.todo
    out.print(
        f"{name}: {len(made.cells)} cells, {made.num_done} done, {len(todo)} to train in {len(made.cohorts)} cohorts"
    )
    for line in made.damaged:
        out.print(line, soft_wrap=True)
    cohorts = table("data set", "teacher", "students", ">seed", ">cells", ">epochs", ">batch")
    for cohort in made.cohorts[:40]:
        first, students = cohort[0], sorted({c.student.short for c in cohort})
        cells = [first.dataset.name, first.teacher.short, ", ".join(students), first.seed, len(cohort)]
        cohorts.add_row(*map(str, [*cells, first.train.epochs, first.train.batch_size]))
    if todo:
        out.print(cohorts)
    if len(made.cohorts) > 40:
        out.print(f"... and {len(made.cohorts) - 40} cohorts more")
    for line in why_not(made):
        out.print(line, soft_wrap=True)
    if todo:
        device = choose_device(options.device)
        out.print(f"roughly {clock(estimate(made, device))} on {device} (from its speed at a convolution just now)")
    return 0


def why_not(made: Plan) -> list[str]:
    """One line per row and pair that does not apply."""
    lines: dict[str, None] = {}
    for cell in made.cells:
        if (reason := made.inapplicable.get(cell.key)) is not None:
            lines[f"does not apply: {cell.dataset.name} · {cell.pair} · {cell.label}: {reason}"] = None
    return list(lines)


def estimate(made: Plan, device: torch.device) -> float:
    """Seconds, from the plan's multiply-adds and the rate of a typical convolution; small nets reach less of it."""
    precision = made.todo[0].train.precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device, dtype).to(memory_format=torch.channels_last)
    images = torch.rand(64, 64, 16, 16, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    macs = 64 * 16 * 16 * 64 * 64 * 9 / 1e9
    with torch.no_grad():
        for rounds in (3, 20):
            start = time.perf_counter()
            for _ in range(rounds):
                layer(images)
            if device.type == "cuda":
                torch.cuda.synchronize()
            rate = rounds * macs / (time.perf_counter() - start)
    launches = sum(c.train.epochs * made.shapes.info(c.dataset).num_train / c.train.batch_size for c in made.todo)
    return 2 * made.pictures() / rate + launches * 0.004


def show_list(what: str, pattern: str, options: Options) -> int:
    load_methods()
    for path in options.plugins:
        load_plugin(path)
    out = console()
    if what == "methods":
        out.print(methods_table(pattern))
    elif what == "datasets":
        out.print(datasets_table(pattern))
    elif what == "models":
        from kdbench.models import known_models

        print("\n".join(name for name in sorted(known_models()) if fnmatchcase(name, pattern)))
    else:
        for path in sorted(Path("suites").glob("*.yaml")):
            if fnmatchcase(path.stem, pattern):
                first = path.read_text().splitlines()[0].removeprefix("# ")
                out.print(f"{path}  {first}", soft_wrap=True)
    return 0


def methods_table(pattern: str) -> Table:
    made = table("method", "family", "needs", ">year", "paper", "settings")
    for name in METHODS:
        method = METHODS[name]
        if fnmatchcase(name, pattern):
            settings = ", ".join(f"{k}={v}" for k, v in METHODS.settings(name, {})[0].items())
            needs = ", ".join(method.needs) or "no teacher"
            made.add_row(name, method.family, needs, str(method.year or ""), method.paper, settings)
    return made


def datasets_table(pattern: str) -> Table:
    made = table("data set", "what", "settings")
    for name in DATASETS:
        if fnmatchcase(name, pattern):
            settings = DATASETS.schema(name).get("properties", {})
            about = (DATASETS[name].__doc__ or "").strip().splitlines()
            made.add_row(name, about[0] if about else "", ", ".join(settings))
    return made


def show_profile(models: list[str], size: int, classes: int, options: Options) -> int:
    """Raises UserError when a model is unknown or can't be built."""
    from kdbench.errors import UserError, unknown
    from kdbench.models import build_net, known_models
    from kdbench.profiling import profile
    from kdbench.suite import ModelSpec

    wrong = [unknown("model", name, known_models()) for name in models if name.split(".")[0] not in known_models()]
    if wrong:
        raise UserError("\n".join(wrong))
    nets: dict[str, Any] = {name: build_net(ModelSpec(model=name), classes, (3, size, size)) for name in models}
    device = choose_device(options.device)
    found = profile(nets, (3, size, size), device)
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


def sync_suite(suite: Path, options: Options) -> int:
    from kdbench.api import make_leaderboard
    from kdbench.suite import load_suite
    from kdbench.tracking import Mirror, sync

    name = load_suite(suite, options.plugins).name
    records = Records(options.results, name).read_all()
    folder = options.results / name

    def files_of(record: Record) -> list[Path]:
        return [folder / "students" / f"{record['key']}.safetensors"]

    try:
        written = sync(records, name, options.results, options.uri, files_of)
        text = make_leaderboard(suite, options)[1]
        files = [folder / "leaderboard.md", folder / "leaderboard.csv"]
        Mirror(name, options.results, options.uri).summary(name, files, text)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"MLflow ({options.uri}) can't be written: {first}")
        return 1
    print(f"{options.uri}: {len(records)} cells, {written} written, {len(records) - written} were there")
    return 0

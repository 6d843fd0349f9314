"""What `plan`, `list`, `profile` and `sync` print."""

import inspect
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from kdbench.api import Options, choose_device
from kdbench.api import plan as make
from kdbench.leaderboard import human, outputs
from kdbench.plan import Plan
from kdbench.progress import clock
from kdbench.records import Record, Records
from kdbench.registry import DATASETS, METHODS, load_methods, load_plugin

USUAL_PAIR = ("cifar_resnet32x4", "cifar_resnet8x4", 32, 100)


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


def show_list(what: str, pattern: str, options: Options, pair: tuple[str, str, int, int] | None = None) -> int:
    """`pair`: teacher, student, side of the pictures and number of classes. Raises UserError for an unknown model."""
    load_methods()
    for path in options.plugins:
        load_plugin(path)
    out = console()
    if what == "methods":
        show_methods(out, pattern, pair)
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


def show_methods(out: Console, pattern: str, pair: tuple[str, str, int, int] | None) -> None:
    """A line a method; of up to three, what they compute and their settings too. `pair` as in `show_list`."""
    names = [name for name in METHODS if fnmatchcase(name, pattern)]
    found = applicability(names, *(pair or USUAL_PAIR), device="cpu" if pair else "meta")
    made = table("method", "family", "needs", ">year", "paper", ">adapters", *(["applies"] if pair else []))
    for name in names:
        method, (adapters, why_not) = METHODS[name], found[name]
        needs = ", ".join(method.needs) or "no teacher"
        if own := [need for need in method.student_needs if need not in (*method.needs, "logits")]:
            needs += f" (student: {', '.join(own)})"
        row = [name, method.family, needs, str(method.year or ""), short_link(method.paper), human(adapters)]
        made.add_row(*row, *([why_not or "yes"] if pair else []))
    out.print(made)
    teacher, student = (pair or USUAL_PAIR)[:2]
    out.print(f"{len(names)} methods; adapters: parameters trained beside the student's, for {teacher} -> {student}")
    for name in names if len(names) <= 3 else []:
        settings = ", ".join(f"{k}={v}" for k, v in METHODS.settings(name, {})[0].items()) or "none"
        about = f"\n{name}: {inspect.getdoc(METHODS[name])}\n\n{METHODS[name].paper}\nsettings: {settings}"
        out.print(about, markup=False, soft_wrap=True)


def short_link(paper: str) -> str:
    """`arXiv:1503.02531`, or the site; on a terminal it leads to the paper."""
    short = paper.replace("https://arxiv.org/abs/", "arXiv:")
    short = short.split("/")[2] if short.startswith("https://") else short
    return f"[link={paper}]{short}[/link]" if paper else ""


def applicability(
    names: Iterable[str], teacher: str, student: str, side: int, classes: int, device: str
) -> dict[str, tuple[int | None, str]]:
    """Of each method: the parameters that it trains beside the student's, or None and why it does not apply.

    Some reasons show in values only, not in shapes: `meta` is quick, `cpu` builds the nets and asks them, untrained.
    """
    from kdbench.method import Inapplicable, Task
    from kdbench.objective import Objective, blank_outputs, needs_of, student_needs_of
    from kdbench.suite import objective

    with torch.device(device):
        nets = build_nets({teacher, student}, side, classes)
        task = Task(classes, 1000, (3, side, side), targets=torch.arange(1000) % classes)
    size = sum(p.numel() for p in nets[student].parameters())
    found: dict[str, tuple[int | None, str]] = {}
    for name in names:
        built = Objective(objective({name: 1.0}))
        try:
            student_says = blank_outputs(nets[student].to(device), student_needs_of([name]), task, device)
            teacher_says = blank_outputs(nets[teacher].to(device), needs_of([name]), task, device)
            with torch.device(device):
                built.build(student_says, teacher_says, task, 0)
        except Inapplicable as reason:
            found[name] = None, str(reason).removeprefix(f"{name} ")
        else:
            adapters = sum(p.numel() for p in built.parameters() if p.requires_grad)
            found[name] = adapters + size * ("peer" in METHODS[name].student_needs), ""
    return found


def build_nets(names: Iterable[str], side: int, classes: int) -> dict[str, Any]:
    """Raises UserError when a model is unknown or can't be built."""
    from kdbench.errors import UserError, unknown
    from kdbench.models import build_net, known_models
    from kdbench.suite import ModelSpec

    wrong = [unknown("model", name, known_models()) for name in names if name.split(".")[0] not in known_models()]
    if wrong:
        raise UserError("\n".join(wrong))
    return {name: build_net(ModelSpec(model=name), classes, (3, side, side)) for name in names}


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
    from kdbench.profiling import profile

    nets = build_nets(models, size, classes)
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
        Mirror(name, options.results, options.uri).summary(name, outputs(folder), text)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"MLflow ({options.uri}) can't be written: {first}")
        return 1
    print(f"{options.uri}: {len(records)} cells, {written} written, {len(records) - written} were there")
    return 0

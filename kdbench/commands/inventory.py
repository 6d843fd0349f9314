"""What `kdbench list` shows of methods, models, transforms and data sets: all for which torch is needed."""

import argparse
import inspect
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kdbench.commands.console import table
from kdbench.commands.matching import matching
from kdbench.data import DATASETS, task_of
from kdbench.errors import UserError, first_line, unknown
from kdbench.files import cache_folder, write_json
from kdbench.method.contract import Inapplicable, Task
from kdbench.method.kinds import CLASSES
from kdbench.method.register import METHODS
from kdbench.method.transform import TRANSFORMS, Reshape
from kdbench.nets import build_net, is_known, known_models, unknown_model
from kdbench.plain import several
from kdbench.registry import hash_of_file
from kdbench.report.text import human
from kdbench.results.provenance import installed
from kdbench.suite.objectives import objective
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.suite.spec import ModelSpec
from kdbench.train.lent import Guard
from kdbench.train.objective import built_objective
from kdbench.vision.batches import picture_task

USUAL_PAIR = ("cifar_resnet32x4", "cifar_resnet8x4")
USUAL = picture_task(100, 32)


def show(out: Console, given: argparse.Namespace) -> None:
    """Raises UserError for an unknown model."""
    what, pattern = given.what, given.pattern
    load_methods()
    for path in given.plugin:
        load_plugin(path)
    if what == "methods":
        show_methods(out, pattern, tuple(given.pair) if given.pair else None, task_given(given))
    elif what == "models":
        print("\n".join(sorted(matching(known_models(pattern), pattern, "model"))))
    else:
        out.print(transforms_table(pattern) if what == "transforms" else datasets_table(pattern))


def task_given(given: argparse.Namespace) -> Task:
    """Of the data set that was named, with its own settings; else of pictures. Raises UserError."""
    name = given.dataset
    if name is None:
        return picture_task(given.classes, given.size)
    if name not in DATASETS:
        raise UserError(unknown("data set", name, DATASETS))
    settings, wrong = DATASETS.settings(name, {})
    if wrong:
        raise UserError(f"--dataset {name}: can't be had by its name alone: {'; '.join(text for _, text in wrong)}")
    return task_of(name, settings, given.data)


def show_methods(out: Console, pattern: str, pair: tuple[str, str] | None, task: Task) -> None:
    """A line a method; of up to three, what they compute and their settings too. `pair`: teacher and student."""
    names = matching(METHODS, pattern, "method")
    screen = Console(stderr=True)
    shown = track(names, "asking methods", console=screen, transient=True, disable=not (pair and screen.is_terminal))
    found = applicability(shown, *pair, task, device="cpu") if pair else of_the_usual_pair(names)
    made = table("method", "family", "needs", ">year", "paper", ">adapters", *(["applies"] if pair else []))
    for name in names:
        method, (adapters, why_not) = METHODS[name], found[name]
        needs = ", ".join(method.needs) or "no teacher"
        if own := [need for need in method.student_needs if need not in (*method.needs, "logits")]:
            needs += f" (student: {', '.join(own)})"
        row = [name, method.family, needs, str(method.year or ""), short_link(method.paper), human(adapters)]
        made.add_row(*row, *([why_not or "yes"] if pair else []))
    out.print(made)
    teacher, student = pair or USUAL_PAIR
    meaning = f"adapters: parameters trained beside the student's, for {teacher} -> {student}"
    out.print(f"{several(len(names), 'method')}; {meaning}")
    for name in names if len(names) <= 3 else []:
        settings = ", ".join(f"{k}={v}" for k, v in METHODS.settings(name, {})[0].items()) or "none"
        about = f"\n{name}: {inspect.getdoc(METHODS[name])}\n\n{METHODS[name].paper}\nsettings: {settings}"
        out.print(about, markup=False, soft_wrap=True)


def short_link(paper: str) -> str:
    """`arXiv:1503.02531`, or the site; on a terminal it leads to the paper."""
    short = paper.replace("https://arxiv.org/abs/", "arXiv:")
    short = short.split("/")[2] if short.startswith("https://") else short
    return f"[link={paper}]{short}[/link]" if paper else ""


def of_the_usual_pair(names: Sequence[str]) -> dict[str, tuple[int | None, str]]:
    """As `applicability`; kept from an earlier time, for it takes seconds and changes with the code alone."""
    method_files = sorted((Path(__file__).parents[1] / "method").glob("*.py"))
    code = [*map(METHODS.file_hash, names), *(path.read_text(encoding="utf-8") for path in method_files)]
    versions = [str(installed()), *USUAL_PAIR]
    path = cache_folder("methods") / f"{hash_of_file(json.dumps([*names, *code, *versions]).encode())}.json"
    with suppress(OSError, ValueError):
        return {name: (adapters, why) for name, (adapters, why) in json.loads(path.read_bytes()).items()}
    found = applicability(names, *USUAL_PAIR, USUAL, device="meta")
    with suppress(OSError):  # a folder that can't be written only makes the next time slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found


def applicability(
    names: Iterable[str], teacher: str, student: str, task: Task, device: str
) -> dict[str, tuple[int | None, str]]:
    """Of each method: the parameters that it trains beside the student's, or None and why it does not apply.

    Some reasons show in values only, not in shapes: `meta` is quick, `cpu` builds the nets and asks them, untrained.
    """
    nets = build_nets({teacher, student}, task, device)
    targets = torch.arange(1000, device=device) % task.num_classes
    task = replace(task, targets=targets if task.kind == CLASSES.name else None)
    size = sum(p.numel() for p in nets[student].parameters())
    found: dict[str, tuple[int | None, str]] = {}
    for name in names:
        try:
            with Guard(), torch.device(device):
                built = built_objective(objective({name: 1.0}), nets[student], nets[teacher], task, device, 0)
        except Inapplicable as reason:
            found[name] = None, str(reason).removeprefix(f"{name} ")
        except Exception as error:
            found[name] = None, f"fails: {first_line(error)}"
        else:
            adapters = sum(p.numel() for p in built.parameters() if p.requires_grad)
            found[name] = adapters + size * ("peer" in METHODS[name].student_needs), ""
    return found


def build_nets(names: Iterable[str], task: Task, device: str = "cpu") -> dict[str, Any]:
    """Raises UserError when a model is unknown or can't be built for the task."""
    specs = {name: model_given(name) for name in names}
    wrong = [unknown_model(spec.model) for spec in specs.values() if not is_known(spec.model)]
    if wrong:
        raise UserError("\n".join(wrong))
    try:
        with torch.device(device):
            return {name: build_net(spec, task).to(device) for name, spec in specs.items()}
    except UserError as error:
        other = "for other data than these: `--dataset NAME`, see `kdbench list datasets`"
        raise UserError(f"{error} ({other})") from error


def model_given(text: str) -> ModelSpec:
    """`resnet18`, or a table as in a suite: `{model: bert, layers: 4, width: 128, heads: 4}`. Raises UserError."""
    if not text.lstrip().startswith("{"):
        return ModelSpec(model=text)
    try:
        return ModelSpec.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{text}: is no model: {first_line(error)}") from error


def transforms_table(pattern: str) -> Table:
    made = table("transform", "where", "settings")
    for name in matching(TRANSFORMS, pattern, "transform"):
        where = "transforms (before training)" if issubclass(TRANSFORMS[name], Reshape) else "then (after training)"
        settings = TRANSFORMS.settings(name, {})[0]
        made.add_row(name, where, ", ".join(f"{k}={v}" for k, v in settings.items()))
    return made


def datasets_table(pattern: str) -> Table:
    made = table("data set", "what", "settings")
    for name in matching(DATASETS, pattern, "data set"):
        settings = DATASETS.schema(name).get("properties", {})
        about = (DATASETS[name].__doc__ or "").strip().splitlines()
        made.add_row(name, about[0] if about else "", ", ".join(settings))
    return made

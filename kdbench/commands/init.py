"""`kdbench init`: a suite proposed for a folder of pictures, whose measured cost fits a budget."""

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import torch
import yaml

from kdbench.api import Options, choose_device
from kdbench.commands.console import show_markdown
from kdbench.commands.given import options_of, seconds_of
from kdbench.data import Held, Splits, held_of
from kdbench.errors import UserError
from kdbench.layout import is_reserved
from kdbench.method.contract import Inapplicable
from kdbench.nets import build_net, is_known, unknown_model
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.train.loop import Cohort, Hooks, train_cohort
from kdbench.train.start import start_trial
from kdbench.train.trial import Trial
from kdbench.vision.batches import Images
from kdbench.vision.inspect import Folder, about, inspect

BATCH = 64
EPOCHS = (10, 240)  # fewer teach nothing, more are not proposed
SEEDS = 3
SPARE = 1.2  # of the measured time: latency, checkpoints, a busy machine


@dataclass
class Costs:
    """Seconds, measured on this device: of one step, but `test` of one picture in an evaluation."""

    teacher_forward: float = 0.0
    teacher_step: float = 0.0
    data: float = 0.0
    test: float = 0.0
    steps: dict[tuple[str, str], float] = field(default_factory=dict)  # (student, row) -> a student's step
    inapplicable: dict[tuple[str, str], str] = field(default_factory=dict)

    def load(self, rate: float) -> None:
        """Pictures come at so many a second; what was measured had them in memory."""
        self.data += BATCH / rate
        self.test += 1 / rate

    def seconds(self, folder: Folder, rows: Sequence[str], seeds: int, epochs: int) -> float:
        """What a suite takes: one teacher, then per student and seed one pass of the teacher for all rows."""
        steps = epochs * math.ceil(0.9 * folder.num_train / BATCH)
        looks = epochs * (folder.num_test + 0.1 * folder.num_train) * self.test
        total = steps * (self.teacher_step + self.data) + looks
        for student in dict.fromkeys(name for name, _ in self.steps):
            own = [self.steps[student, row] for row in rows if (student, row) in self.steps]
            total += seeds * (steps * (self.teacher_forward + self.data + sum(own)) + len(own) * looks)
        return SPARE * total


def run(given: argparse.Namespace) -> int:
    show_markdown(propose(given.teacher, given.student, given.budget, given.output, given.force, options_of(given)))
    return 0


def propose(teacher: str, students: Sequence[str], budget: str, output: Path, force: bool, options: Options) -> str:
    """Write a suite for the pictures in `options.data` whose measured cost fits the budget; returns what to tell.

    Raises UserError when the folder, a model or the budget won't do, or when `output` is there already.
    """
    if output.exists() and not force:
        raise UserError(f"{output} is there already; give another --output, or --force to replace it")
    limit = seconds_of(budget)
    wrong = [unknown_model(name) for name in (teacher, *students) if not is_known(name)]
    if wrong:
        raise UserError("\n".join(wrong))
    folder, rows = inspect(options.data.expanduser().resolve()), proposed_rows()
    device = choose_device(options.device)
    text = suite_text(folder, teacher, students, rows, SEEDS, EPOCHS[1], "")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    try:
        costs, held = measure(output, folder, device), where_pixels_lie(folder)
        costs.load(held.rate)
        chosen, seeds, epochs = fit(costs, folder, list(rows), limit)
    except BaseException:
        output.unlink()
        raise
    seconds = costs.seconds(folder, chosen, seeds, epochs)
    comment = f"about {spoken(seconds)} on {device} by measured steps; the budget was {budget}"
    text = suite_text(folder, teacher, students, {n: rows[n] for n in chosen}, seeds, epochs, comment)
    output.write_text(text, encoding="utf-8")
    load_suite(output)
    lines = [
        *about(folder),
        held.words,
        f"{output}: {len(chosen)} objectives, {seeds} seeds, {epochs} epochs: {comment}",
    ]
    lines += [f"left out for the budget: {', '.join(n for n in rows if n not in chosen)}"] * (len(chosen) < len(rows))
    lines += [f"{row} won't apply to {student}: {why}" for (student, row), why in costs.inapplicable.items()]
    run = f"kdbench run {output}\nkdbench recommend {output}"
    return "\n".join(f"- {line}" for line in lines) + f"\n\nNext:\n\n```\n{run}\n```"


def where_pixels_lie(folder: Folder) -> Held:
    settings = {"path": str(folder.root), "size": folder.size, "broken": "skip", "max_megapixels": None}
    return held_of("folder", settings, folder.root)


def spoken(seconds: float) -> str:
    """90 -> `2 minutes`"""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def proposed_rows() -> dict[str, Any]:
    """`proposed.yaml` beside the installed methods: the rows and their weights are theirs, not the engine's."""
    rows: dict[str, Any] = {}
    for entry in entry_points(group="kdbench.methods"):
        origin = getattr(entry.load(), "__file__", None)
        file = Path(origin).with_name("proposed.yaml") if origin else None
        if file is not None and file.is_file():
            rows |= yaml.safe_load(file.read_text(encoding="utf-8"))
    if not rows:
        raise UserError("no installed methods propose rows for a suite (proposed.yaml)")
    return rows


def suite_text(
    folder: Folder, teacher: str, students: Sequence[str], rows: dict[str, Any], seeds: int, epochs: int, comment: str
) -> str:
    def flow(data: Any) -> str:
        return yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=1000).strip()

    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.root.name).strip("-._") or "pictures"
    name = f"{name}-suite" if is_reserved(name) else name
    data = {"name": "folder", "path": str(folder.root), "size": folder.size}
    pairs = [f"  - {flow({'teacher': teacher, 'student': student})}" for student in students]
    warmup = min(5, epochs // 10)
    held_out = "0.1  # of the training pictures, held out to choose by; the test pictures decide nothing"
    if not folder.can_hold_out:
        held_out = "0.0  # there are too few pictures to hold some out to choose by"
    train = {"epochs": epochs, "batch_size": BATCH, "lr": 0.05, "schedule": "cosine", "warmup_epochs": warmup,
             "augment": "crop_flip"}  # fmt: skip
    return "\n".join([
        f"# Which student to ship for {folder.root.name}, and trained how? {comment}".rstrip(),
        "#",
        f"# {folder.contents}.",
        f"name: {name}",
        f"datasets: [{flow(data)}]  # pictures are brought to this size",
        "pairs:  # a teacher can be pretrained: {model: ..., pretrained: true} or {model: ..., checkpoint: FILE}",
        *pairs,
        "methods:  # rows of the leaderboard: weighted sums; see `kdbench list methods` for more",
        *(f"  {flow({label: terms})[1:-1]}" for label, terms in rows.items()),
        f"seeds: {list(range(seeds))}  # more seeds, narrower intervals",
        f"validation: {held_out}",
        f"train: {flow(train)}",
        "",
    ])  # fmt: skip


def measure(suite: Path, folder: Folder, device: torch.device) -> Costs:
    """Train every row for a few steps on noise of the right size, in the engine's own loop, and read its clocks."""
    cells = [cell for cell in cells_of(load_suite(suite)) if cell.seed == 0]
    cells = [replace(cell, train=cell.train.model_copy(update={"epochs": 2, "warmup_epochs": 0.0})) for cell in cells]
    splits = noise(folder, 2 * BATCH).to(device)
    first, costs = cells[0], Costs()
    teacher = build_net(first.teacher, splits.task, "teacher", 0).to(device)
    alone = next(cell for cell in cells if cell.is_alone)
    [found] = _timed([_start(replace(alone, student=alone.teacher), splits, teacher, device)], None, splits, alone)
    costs.teacher_step, costs.test = found["step"], found["test"]
    teacher.requires_grad_(False).eval()
    for cell in cells:
        place = cell.student.short, cell.label
        try:
            trial = _start(cell, splits, teacher, device)
        except Inapplicable as reason:
            costs.inapplicable[place] = str(reason)
            continue
        [found] = _timed([trial], teacher, splits, cell)
        if trial.status == "failed":
            costs.inapplicable[place] = trial.reason
            continue
        costs.steps[place] = found["step"]
        costs.data = max(costs.data, found["data"])
        costs.teacher_forward = max(costs.teacher_forward, found["teacher"])
    return costs


def noise(folder: Folder, count: int) -> Splits:
    """Pictures of the right size and number of classes; what they show does not change how long a step takes."""
    classes, size = len(folder.counts), folder.size
    made = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=made).to(torch.uint8)
    images = Images(pixels, torch.arange(count) % classes)
    return Splits(images, images, classes)


def _start(cell: Cell, splits: Splits, teacher: Any, device: torch.device) -> Trial:
    net = build_net(cell.student, splits.task, "student", 0)
    return start_trial(cell, net, splits, teacher, device, None)


def _timed(trials: list[Trial], teacher: Any, splits: Splits, cell: Cell) -> list[dict[str, float]]:
    """Seconds per step in the second epoch (the first one warms up), and per picture of an evaluation."""
    before: dict[str, dict[str, float]] = {}

    def epoch(trial: Trial) -> None:
        before.setdefault(trial.key, dict(trial.seconds))

    train_cohort(Cohort(teacher, splits, cell.train.batches, 0, Hooks(epoch=epoch)), trials)
    found = []
    for trial in trials:
        spent = {name: value - before.get(trial.key, {}).get(name, 0.0) for name, value in trial.seconds.items()}
        steps = len(splits.train) / cell.train.batch_size
        per_step = {name: value / steps for name, value in spent.items()}
        found.append({**per_step, "test": spent["epochs"] / len(splits.test)})
    return found


def fit(costs: Costs, folder: Folder, rows: list[str], limit: float) -> tuple[list[str], int, int]:
    """Rows, seeds and epochs for the budget. Epochs give way first (to 30), then rows, then seeds, then epochs again.

    Raises UserError when even a student alone and one method, with one seed, take longer.
    """
    rows = [row for row in rows if any((student, row) in costs.steps for student, _ in costs.steps)]
    for least, fewest, seeds in (
        (30, len(rows), SEEDS),
        (30, 3, SEEDS),
        (20, 3, 2),
        (EPOCHS[0], 2, 2),
        (EPOCHS[0], 2, 1),
    ):
        for count in range(len(rows), min(fewest, len(rows)) - 1, -1):
            per_epoch = costs.seconds(folder, rows[:count], seeds, 1)
            epochs = min(int(limit / per_epoch), EPOCHS[1])
            if epochs >= least:
                return rows[:count], seeds, epochs
    needed = costs.seconds(folder, rows[:2], 1, EPOCHS[0])
    raise UserError(
        f"the budget is too small: {EPOCHS[0]} epochs of two objectives with one seed take {spoken(needed)}"
    )

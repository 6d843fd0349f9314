"""`kdbench init` of a folder of pictures: a suite whose measured cost fits a budget."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from kdbench.api import Options, choose_device
from kdbench.commands.budget import EPOCHS, SEEDS, Price, Proposal, fit, spoken
from kdbench.commands.given import seconds_of
from kdbench.commands.measure import affordable
from kdbench.errors import UserError
from kdbench.grid.plan import Plan, Shapes
from kdbench.grid.probe import Probe, kept, name_of, probe
from kdbench.grid.run import using
from kdbench.grid.shares import shares_of
from kdbench.layout import is_reserved
from kdbench.nets import is_known, unknown_model
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.vision.inspect import SIZES, Folder, about, inspect
from kdbench.vision.pretrained import why_not

RECIPES = ((2000, "pictures-many"), (500, "pictures-some"), (0, "pictures-few"))  # from so many training pictures on
FINE_TUNING = 60  # epochs at most where the student starts from weights
LR, GENTLE = 0.05, 0.01  # from random weights; from weights that know pictures already
MEASURING = (25.0, 0.05)  # seconds, and the share of the budget, that measuring may take: the smaller of both
TEACHERS = 0.4  # of that, which the teacher may take: at a smaller size where it would take more


@dataclass(frozen=True)
class Wanted:
    """What was asked for. `weights`: model -> a file of weights to start from."""

    teacher: str
    students: tuple[str, ...]
    budget: str = "2h"
    output: Path = Path("suite.yaml")
    force: bool = False
    size: int | None = None
    weights: Mapping[str, Path] = field(default_factory=dict)


def propose(root: Path, wanted: Wanted, options: Options) -> str:
    """Write a suite for the pictures in `root` whose measured cost fits the budget; returns what to tell.

    Raises UserError when the folder, a model or the budget won't do, or when the output is there already.
    """
    load_methods()
    limit, _ = _checked(wanted), choose_device(options.device)
    folder, rows = inspect(root.expanduser().resolve()), proposed_rows()
    starts = {name: start_of(name, folder, wanted) for name in (wanted.teacher, *wanted.students)}
    screen = Console(stderr=True, highlight=False)
    for line in about(folder):
        screen.print(f"- {line}", markup=False, soft_wrap=True)
    sizes = [wanted.size] if wanted.size else [size for size in SIZES if size <= folder.size]
    text = Text(folder, wanted, starts)
    most = FINE_TUNING if all(starts[name] for name in wanted.students) else EPOCHS[1]
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with screen.status("measuring") as status:
            say = lambda what: status.update(f"measuring {what}")  # noqa: E731
            price = priced(text, rows, (limit, most), sizes, options, say)
        found = fit(price, list(rows), limit, sizes, most)
    except BaseException:
        wanted.output.unlink(missing_ok=True)
        raise
    device = choose_device(options.device)
    comment = f"about {spoken(found.seconds)} on {device} by measured steps; the budget was {wanted.budget}"
    wanted.output.write_text(text.suite({n: rows[n] for n in found.rows}, found, comment), encoding="utf-8")
    load_suite(wanted.output)
    note_at(found.size, price, options.results)
    return told(text, rows, found, price, comment)


def priced(
    text: "Text",
    rows: Mapping[str, Any],
    most: tuple[float, int],
    sizes: Sequence[int],
    options: Options,
    say: Callable[[str], None],
) -> Price:
    """What the whole suite costs, measured. `most`: seconds and epochs. Its file is written for that alone."""
    device, wanted, allowed = choose_device(options.device), text.wanted, min(MEASURING[0], MEASURING[1] * most[0])
    teacher, classes = ModelSpec(model=wanted.teacher), len(text.folder.counts)
    side = affordable(teacher, classes, sizes, device, TEACHERS * allowed)
    wanted.output.write_text(text.suite(rows, Proposal(side, list(rows), SEEDS, most[1], 0.0)), encoding="utf-8")
    return price_of(text, allowed, (side, max(sizes)), options, say)


def price_of(text: Any, allowed: float, sizes: tuple[int, int], options: Options, say: Callable[[str], None]) -> Price:
    """Of the suite that was written; measured for `allowed` seconds. `sizes`: at which, and the largest there is."""
    device = choose_device(options.device)
    cells, shapes = cells_of(load_suite(text.wanted.output)), Shapes(text.folder.root)
    shapes.check_models(cells)
    inapplicable, failing = shapes.refused(cells)
    plan = Plan(cells, {}, inapplicable, shapes, failing=failing)
    shares = shares_of(plan, device, None)
    with using(shares[0].threads):
        speed = kept(probe(plan, device, allowed, len(shares) - 1, say), options.results)
    return Price(plan, speed, sizes[0], len(shares), sizes[1])


def note_at(size: int, price: Price, results: Path) -> None:
    """What was measured at another size, by the area, as it was priced: `plan` and the bar tell the same time."""
    assert isinstance(price.speed, Probe)
    area, nets = (size / price.side) ** 2, price.speed.speeds.nets
    for cell in price.plan.todo:
        other = replace(cell, dataset=cell.dataset.model_copy(update={"size": size}))
        for spec in (cell.teacher_net, cell.make):
            if (took := nets.get(name_of(spec, cell))) is not None:
                forward, step = took
                nets.setdefault(name_of(spec, other), (area * forward, area * step))
    with using(shares_of(price.plan, price.speed.device, None)[0].threads):
        kept(price.speed, results)


def told(text: "Text", rows: Mapping[str, Any], found: Proposal, price: Price, comment: str) -> str:
    """What to tell of a proposal, Markdown."""
    wanted, plan = text.wanted, price.plan
    held = plan.shapes.held(plan.cells[0].dataset)
    what = f"{len(found.rows)} objectives, {found.seeds} seed{'s' * (found.seeds > 1)}, {found.epochs} epochs"
    lines = [held.words] * bool(held.words)
    lines += [f"{wanted.output}: {what}, pictures of {found.size} x {found.size}: {comment}"]
    lines += [f"{name} starts from {s.words}" if s else _from_nothing(name) for name, s in text.starts.items()]
    if found.size < price.largest:
        lines.append(f"smaller pictures than {price.largest} x {price.largest}, for the budget")
    refused = plan.inapplicable | plan.failing
    wont = {f"{c.label} won't apply to {c.student.short}: {refused[c.key]}" for c in plan.cells if c.key in refused}
    if left_out := [name for name in rows if name not in found.rows and not any(w.startswith(name) for w in wont)]:
        lines.append(f"left out for the budget: {', '.join(left_out)}")
    lines += sorted(wont)
    if found.epochs < 5:
        lines.append(f"{len(found.rows)} rows, {found.epochs} epochs: too little to decide; a longer --budget")
    after = f"kdbench run {wanted.output}\nkdbench recommend {wanted.output}"
    return "\n".join(f"- {line}" for line in lines) + f"\n\nNext:\n\n```\n{after}\n```"


def _checked(wanted: Wanted) -> float:
    """The budget in seconds. Raises UserError for what can be seen to be wrong before anything is opened."""
    if wanted.output.exists() and not wanted.force:
        raise UserError(f"{wanted.output} is there already; give another --output, or --force to replace it")
    limit, names = seconds_of(wanted.budget), (wanted.teacher, *wanted.students)
    wrong = [unknown_model(name) for name in names if not is_known(name)]
    known = ", ".join(names)
    wrong += [f"--weights {n}=...: is neither teacher nor student: {known}" for n in wanted.weights if n not in names]
    if wrong:
        raise UserError("\n".join(wrong))
    return limit


@dataclass(frozen=True)
class Start:
    """Weights that a net starts from: what the suite says, and what people are told."""

    entry: Mapping[str, Any]
    words: str


def start_of(name: str, folder: Folder, wanted: Wanted) -> Start | None:
    """A file, or the weights that timm offers where they can be had; None: random ones."""
    if name in wanted.weights:
        return Start(
            {"checkpoint": str(wanted.weights[name]), "head": "new"}, f"{wanted.weights[name].name}, and is fine-tuned"
        )
    if why_not(name):
        return None
    return Start({"pretrained": True}, "pretrained weights (timm's), and is fine-tuned")


def _from_nothing(name: str) -> str:
    return f"{name} starts from random weights: {why_not(name)}; a file of them is given by --weights {name}=FILE"


def proposed_rows(name: str = "proposed.yaml") -> dict[str, Any]:
    """The file `name` beside the installed methods: the rows and their weights are theirs, not the engine's."""
    rows: dict[str, Any] = {}
    for entry in entry_points(group="kdbench.methods"):
        origin = getattr(entry.load(), "__file__", None)
        file = Path(origin).with_name(name) if origin else None
        if file is not None and file.is_file():
            rows |= yaml.safe_load(file.read_text(encoding="utf-8"))
    if not rows:
        raise UserError(f"no installed methods propose rows for a suite ({name})")
    return rows


@dataclass(frozen=True)
class Text:
    """The suite's file for a folder."""

    folder: Folder
    wanted: Wanted
    starts: Mapping[str, Start | None]

    def suite(self, rows: Mapping[str, Any], found: Proposal, comment: str = "") -> str:
        pairs = [{"teacher": self.net(self.wanted.teacher), "student": self.net(name)} for name in self.wanted.students]
        dataset = {"name": "folder", "path": str(self.folder.root), "size": found.size}
        dataset |= {"broken": "skip"} if self.folder.broken else {}
        return "\n".join([
            f"# Which student to ship for {self.folder.root.name}, and trained how? {comment}".rstrip(),
            "#",
            f"# {self.folder.contents}.",
            f"name: {self.name}",
            f"datasets: [{flow(dataset)}]"
            "  # pictures are brought to this size",
            "pairs:  # others: {model: M, pretrained: true}, {model: M, checkpoint: FILE, head: new}; see docs",
            *(f"  - {flow(pair)}" for pair in pairs),
            "methods:  # rows of the leaderboard: weighted sums; see `kdbench list methods` for more",
            *(f"  {flow({label: terms})[1:-1]}" for label, terms in rows.items()),
            f"seeds: {list(range(found.seeds))}  # more seeds, narrower intervals",
            f"validation: {self.held_out}",
            *self.training(found.epochs),
            "",
        ])  # fmt: skip

    def net(self, name: str) -> Any:
        start = self.starts[name]
        return {"model": name, **start.entry} if start else name

    @property
    def name(self) -> str:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.folder.root.name).strip("-._") or "pictures"
        return f"{name}-suite" if is_reserved(name) else name

    @property
    def held_out(self) -> str:
        if self.folder.can_hold_out:
            return "0.1  # of the training pictures, held out to choose by; the test pictures decide nothing"
        return "0.0  # there are too few pictures to hold some out to choose by"

    def training(self, epochs: int) -> list[str]:
        """By the size of the data, and gently where the nets know pictures already."""
        recipe = next(name for least, name in RECIPES if self.folder.num_train >= least)
        teacher, lr = self.rate(self.wanted.teacher), max(map(self.rate, self.wanted.students))
        train: dict[str, Any] = {"recipe": recipe, "epochs": epochs, "warmup_epochs": min(5, epochs // 10)}
        train |= {"lr": lr} if lr != LR else {}
        lines = [f"train: {flow(train)}  # `kdbench list recipes {recipe}` shows what it stands for"]
        return lines + ([f"teacher_train: {flow({'lr': teacher})}"] if teacher != lr else [])

    def rate(self, name: str) -> float:
        return GENTLE if self.starts[name] else LR


def flow(data: Any) -> str:
    return yaml.safe_dump(data, default_flow_style=True, sort_keys=False, width=1000).strip()

"""`kdbench init` of texts: a table or folders of .txt in, a suite whose measured cost fits a budget out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from kdbench.api import Options, choose_device
from kdbench.commands.budget import SEEDS, Price, Proposal, fit, spoken
from kdbench.commands.given import seconds_of
from kdbench.commands.init_pictures import MEASURING, Wanted, flow, price_of, proposed_rows
from kdbench.commands.inventory import model_given
from kdbench.errors import UserError
from kdbench.layout import is_reserved
from kdbench.nets import is_known, unknown_model
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.text.inspect import Found, about, inspect, place_of

TEACHER = "{model: bert, layers: 4, width: 256, heads: 4}"
STUDENTS = ("{model: bert, layers: 2, width: 128, heads: 4}", "bilstm")
ROWS, NUMBER_ROWS = "proposed_texts.yaml", "proposed_numbers.yaml"
MOST, FINE_TUNING = 30, 6  # epochs at most: of nets that start from nothing, and where all start from weights
LR, GENTLE = 1e-3, 5e-5  # likewise
FEW = 500  # training texts, of fewer the batches are smaller


@dataclass(frozen=True)
class Words:
    """The suite's file for texts."""

    folder: Found
    wanted: Wanted
    length: int

    @property
    def teacher(self) -> ModelSpec:
        return model_given(self.wanted.teacher)

    @property
    def students(self) -> list[ModelSpec]:
        return [model_given(text) for text in self.wanted.students]

    @property
    def most(self) -> int:
        return FINE_TUNING if all("weights" in student.options for student in self.students) else MOST

    def suite(self, rows: Mapping[str, Any], found: Proposal, comment: str = "") -> str:
        return "\n".join([
            f"# Which student to ship for {self.folder.root.name}, and trained how? {comment}".rstrip(),
            "#",
            f"# {self.folder.contents}.",
            f"name: {self.name}",
            f"datasets: [{flow(self.dataset())}]  # texts are cut to this length",
            "pairs:  # others: {model: bert, weights: DIR, keep: [0, 2, 4]}; see docs/texts.md",
            *(f"  - {flow(self.pair(student))}" for student in self.students),
            "methods:  # rows of the leaderboard: weighted sums; see `kdbench list methods` for more",
            *(f"  {flow({label: terms})[1:-1]}" for label, terms in rows.items()),
            f"seeds: {list(range(found.seeds))}  # more seeds, narrower intervals",
            f"validation: {0.1 if self.folder.can_hold_out else 0.0}  # of the training texts, held out to choose by",
            *self.training(found.epochs),
            "",
        ])  # fmt: skip

    def dataset(self) -> dict[str, Any]:
        """Its words are those of the first net that starts from weights."""
        columns = self.folder.columns
        known = [spec.options["weights"] for spec in (self.teacher, *self.students) if "weights" in spec.options]
        given = {"name": "text_folder", "path": str(self.folder.root), "text": columns.text, "label": columns.label,
                 "targets": columns.targets, "judged_on": columns.judged_on, "tokenizer": known[0] if known else None,
                 "length": self.length}  # fmt: skip
        return {name: value for name, value in given.items() if value is not None}

    def pair(self, student: ModelSpec) -> dict[str, Any]:
        nets = {"teacher": plain(self.teacher), "student": plain(student)}
        own = self.rate(student)
        return nets | ({"train": {"lr": own}} if own != self.rate(self.students[0]) else {})

    @property
    def name(self) -> str:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.folder.root.name).strip("-._") or "texts"
        return f"{name}-suite" if is_reserved(name) else name

    def training(self, epochs: int) -> list[str]:
        train = {"epochs": epochs, "batch_size": 32 if self.folder.num_train >= FEW else 16, "optimizer": "adamw",
                 "lr": self.rate(self.students[0]), "weight_decay": 0.01, "no_decay": "norms_and_biases",
                 "warmup_epochs": round(epochs / 10, 1), "clip_grad": 1.0, "augment": "none"}  # fmt: skip
        teacher = self.rate(self.teacher)
        lines = [f"train: {flow(train)}"]
        return lines + ([f"teacher_train: {flow({'lr': teacher})}"] if teacher != train["lr"] else [])

    def rate(self, spec: ModelSpec) -> float:
        return GENTLE if "weights" in spec.options else LR


def plain(spec: ModelSpec) -> Any:
    return {"model": spec.model, **spec.options} if spec.options else spec.model


def propose_for_texts(root: Path, wanted: Wanted, options: Options) -> str:
    """Write a suite for the texts in `root` whose measured cost fits the budget; returns what to tell.

    Raises UserError as `propose` of pictures does.
    """
    load_methods()
    limit = checked(wanted)
    folder = inspect(place_of(root))
    rows = proposed_rows(NUMBER_ROWS if folder.numbers else ROWS)
    screen = Console(stderr=True, highlight=False)
    for line in about(folder):
        screen.print(f"- {line}", markup=False, soft_wrap=True)
    text = Words(folder, wanted, wanted.size or folder.length)
    wanted.output.parent.mkdir(parents=True, exist_ok=True)
    size = text.length
    try:
        wanted.output.write_text(text.suite(rows, Proposal(size, list(rows), SEEDS, text.most, 0.0)), encoding="utf-8")
        allowed = min(MEASURING[0], MEASURING[1] * limit)
        with screen.status("measuring") as status:
            say = lambda what: status.update(f"measuring {what}")  # noqa: E731
            price = price_of(text, allowed, (size, size), options, say)
        found = fit(price, list(rows), limit, [size], text.most)
    except BaseException:
        wanted.output.unlink(missing_ok=True)
        raise
    comment = f"about {spoken(found.seconds)} on {choose_device(options.device)} by measured steps; the budget was "
    comment += wanted.budget
    wanted.output.write_text(text.suite({n: rows[n] for n in found.rows}, found, comment), encoding="utf-8")
    load_suite(wanted.output)
    return told(text, rows, found, price, comment)


def checked(wanted: Wanted) -> float:
    """The budget in seconds. Raises UserError for what can be seen to be wrong before anything is opened."""
    if wanted.output.exists() and not wanted.force:
        raise UserError(f"{wanted.output} is there already; give another --output, or --force to replace it")
    if wanted.weights:
        raise UserError(
            '--weights is for pictures; of texts say it of the net: --teacher "{model: bert, weights: DIR}"'
        )
    names = [model_given(text).model for text in (wanted.teacher, *wanted.students)]
    if wrong := [unknown_model(name) for name in names if not is_known(name)]:
        raise UserError("\n".join(wrong))
    return seconds_of(wanted.budget)


def told(text: Words, rows: Mapping[str, Any], found: Proposal, price: Price, comment: str) -> str:
    """What to tell of a proposal, Markdown."""
    plan = price.plan
    seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
    lines = [f"{text.wanted.output}: {len(found.rows)} objectives, {seeds}, {found.epochs} epochs: {comment}"]
    nets = dict.fromkeys([text.teacher, *text.students])
    lines += [
        f"{net.short} starts from {net.options.get('weights', 'random weights: `weights: DIR` names others')}"
        for net in nets
    ]
    refused = plan.inapplicable | plan.failing
    lines += sorted(
        {f"{c.label} won't apply to {c.student.short}: {refused[c.key]}" for c in plan.cells if c.key in refused}
    )
    if left_out := [name for name in rows if name not in found.rows]:
        lines.append(f"left out for the budget: {', '.join(left_out)}")
    if found.epochs < 5:
        lines.append(f"{found.epochs} epochs: too little to decide; a longer --budget")
    after = f"kdbench run {text.wanted.output}\nkdbench recommend {text.wanted.output}"
    return "\n".join(f"- {line}" for line in lines) + f"\n\nNext:\n\n```\n{after}\n```"

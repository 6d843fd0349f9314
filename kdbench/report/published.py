"""The literature's numbers beside ours: read from `results/published/`, matched by objective and by how it was trained.

A published row stands for an objective (`recipes.yaml`) on a pair. It is shown for rows of ours with that objective on
that pair; the difference is computed only where our training is that of the benchmark too, and with the row's own
protocol: our last epoch against a last epoch, our best test epoch against a best test epoch. A teacher that we trained
by the benchmark's recipe may differ from theirs by luck, so its published accuracy stands beside ours; one that came as
a checkpoint must be theirs, which its accuracy shows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from kdbench.errors import UserError, unknown
from kdbench.layout import RESULTS, Layout
from kdbench.suite.cells import objective_identity
from kdbench.suite.load import objective
from kdbench.suite.plugins import load_methods

HERE = Path(__file__).resolve().parents[1]
FOLDERS = (Layout(HERE.parent / RESULTS).published, HERE / "published_data")  # a checkout's, an installed package's
COLUMNS = ("teacher", "student", "method", "top1", "std", "runs", "setting", "protocol", "note", "source")
NEAR = 0.1  # points: a public checkpoint has its published accuracy but for rounding and the device's arithmetic
Our = str | Mapping[str, Any]  # a net of ours: the name of a plain one, or what its record has of it
PROTOCOLS = {"last": "last epoch", "best": "best test epoch"}


@dataclass(frozen=True)
class Published:
    """One published number. `protocol`: last, best or unstated."""

    method: str
    top1: float
    protocol: str
    source: str


def folder() -> Path:
    """Raises UserError when the published numbers are not installed."""
    for place in FOLDERS:
        if (place / "recipes.yaml").is_file():
            return place
    raise UserError(f"the published numbers are missing: looked in {', '.join(map(str, FOLDERS))}")


@cache
def load(dataset: str) -> pd.DataFrame:
    """All published rows of a data set, of all settings. Raises UserError when there is no such file."""
    path = folder() / f"{dataset}.csv"
    if not path.is_file():
        raise UserError(unknown("published data set", dataset, [p.stem for p in folder().glob("*.csv")]))
    empty = {"std": "", "runs": ""}  # elsewhere an empty text is an empty text
    return pd.read_csv(path, dtype={"note": str, "std": float}, keep_default_na=False, na_values=empty)


@cache
def recipes() -> dict[str, Any]:
    """data set -> its comparable setting: `train`, `slow_students`, and `rows` with every setting filled in."""
    load_methods()
    found = yaml.safe_load((folder() / "recipes.yaml").read_text(encoding="utf-8"))
    for benchmark in found.values():
        benchmark["rows"] = [
            {**row, "objective": objective_identity(objective(row["objective"]))} for row in benchmark["rows"]
        ]
    return found


def published_for(dataset: str, teacher: Our, student: Our, terms: Any) -> Published | None:
    """The number that the literature has for our nets `teacher` and `student` (`cifar_resnet20`) and an objective.

    `dataset`: see `benchmark_of`. `terms`: the objective as it stands in a record, every setting filled in. None when
    there is no such number.
    """
    benchmark = recipes().get(dataset)
    if benchmark is None:
        return None
    names = [found for net in (teacher, student) if (found := name_in(benchmark, net)) is not None]
    if len(names) < 2:
        return None
    for row in benchmark["rows"]:
        if _stands_for(benchmark, row, names) and row["objective"] == terms:
            return _number(load(benchmark.get("file", dataset)), benchmark["setting"], row, names)
    return None


def benchmark_of(dataset: Mapping[str, Any]) -> str:
    """Under which name `recipes.yaml` has a data set as it stands in a record: `cifar100`, `glue-rte`."""
    return "-".join(str(dataset[part]) for part in ("name", "subset") if part in dataset)


def name_in(benchmark: Mapping[str, Any], net: Our) -> str | None:
    """The benchmark's name of a net of ours: by its name, or as it stands in a record; None where it has none."""
    given = {"model": net} if isinstance(net, str) else {k: v for k, v in net.items() if k != "pretrained" or v}
    for name, own in benchmark.get("nets", {}).items():
        if own == given:
            return str(name)
    plain = set(given) <= {"model", "pretrained", "checkpoint"} and "prefix" in benchmark
    if not plain or not given["model"].startswith(benchmark["prefix"]):
        return None
    return str(given["model"].removeprefix(benchmark["prefix"]))


def published_teacher(dataset: str, teacher: Our) -> float:
    """The accuracy of the benchmark's own teacher, NaN where there is none."""
    benchmark = recipes().get(dataset)
    if benchmark is None or (name := name_in(benchmark, teacher)) is None:
        return math.nan
    table = load(benchmark.get("file", dataset)).query("method == 'teacher'")
    named = table[(table["teacher"] == name)]
    found = named[(named["setting"] == benchmark["setting"]) & named["source"].str.contains(benchmark["teachers"])]
    return float(found.iloc[0]["top1"]) if len(found) else math.nan


def _stands_for(benchmark: dict[str, Any], row: dict[str, Any], names: list[str]) -> bool:
    """Is `row` the first entry of its method that fits the pair?"""
    pair = " -> ".join(names)
    same = [r for r in benchmark["rows"] if r["method"] == row["method"]]
    return row is next((r for r in same if any(fnmatchcase(pair, p) for p in r.get("pairs", ["*"]))), None)


def _number(table: pd.DataFrame, setting: str, row: dict[str, Any], names: list[str]) -> Published | None:
    pair = (table["teacher"] == names[0]) & (table["student"] == names[1])
    origin = table["source"].str.contains(row["source"], regex=False)
    found = table[pair & origin & (table["setting"] == setting) & (table["method"] == row["method"])]
    if found.empty:
        return None
    first = found.iloc[0]
    return Published(row["method"], float(first["top1"]), first["protocol"], first["source"])


def same_training(recipe: Mapping[str, Any]) -> bool:
    """Was a cell trained as the benchmark trains? `recipe`: its settings as they stand in its record.

    The student's training, the teacher's (or a checkpoint of it), the whole training set; the precision may differ.
    """
    benchmark = recipes().get(benchmark_of(recipe["dataset"]))
    if benchmark is None or "train" not in benchmark or recipe["validation"] != 0:
        return False
    student = recipe["student"]["model"].removeprefix(benchmark["prefix"])
    slow = benchmark["slow_students"]
    wanted = _without(benchmark["train"])
    teacher = recipe["teacher"]
    same_teacher = "checkpoint" in teacher["model"] or _without(teacher.get("train", {})) == wanted
    slower = {"lr": slow["lr"]} if student in slow["students"] else {}
    return _without(recipe["train"]) == wanted | slower and same_teacher


def other_checkpoint(recipe: Mapping[str, Any], ours: float, theirs: float) -> bool:
    """Did the teacher come from a file, and is its accuracy `ours` (NaN: not known) not that of the benchmark's?"""
    return "checkpoint" in recipe["teacher"]["model"] and not abs(ours - theirs) <= NEAR


def _without(train: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a recipe: not the precision, nor what is off."""
    return {name: value for name, value in train.items() if name != "precision" and value is not None}


@dataclass(frozen=True)
class Beside:
    """What stands beside a row of ours: NaN and empty where the literature has nothing for it."""

    number: float = math.nan
    difference: float = math.nan  # ours - theirs; NaN where the training, the pair or the protocol is another
    protocol: str = ""
    source: str = ""
    teacher: float = math.nan  # the published teacher's accuracy

    @property
    def columns(self) -> dict[str, float | str]:
        return {"published": self.number, "ours - published": self.difference, "published_teacher": self.teacher,
                "published_protocol": self.protocol, "published_source": self.source}  # fmt: skip


def beside(identity: Mapping[str, Any], last: float, best: float, teacher_top1: float = math.nan) -> Beside:
    """The literature's number for a row. `identity`: of one of its cells; `last`, `best`: our mean score after the last
    epoch, and at the best test epoch (NaN without a finished cell); `teacher_top1`: our teacher's.
    """
    teacher, student = identity["teacher"]["model"], identity["student"]
    dataset = benchmark_of(identity["dataset"])
    found = published_for(dataset, teacher, student, identity["objective"])
    if found is None or "control" in identity["teacher"]:
        return Beside()
    theirs = published_teacher(dataset, teacher)
    same, other = same_training(identity), ""
    if not same:
        other = "; other training than ours"
    elif other_checkpoint(identity, teacher_top1, theirs):
        same, other = False, "; another teacher than ours"
    ours = {"last": last, "best": best}.get(found.protocol, math.nan) if same else math.nan
    return Beside(
        number=found.top1,
        difference=ours - found.top1,
        protocol=PROTOCOLS.get(found.protocol, "unstated") + other,
        source=found.source,
        teacher=theirs,
    )

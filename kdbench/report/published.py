"""The literature's numbers beside ours: read from `results/published/`, matched by objective and by how it was trained.

A published row stands for an objective (`recipes.yaml`) on a pair. It is shown for rows of ours with that objective on
that pair; the difference is computed only where our training is that of the benchmark too, and with the row's own
protocol: our last epoch against a last epoch, our best test epoch against a best test epoch.
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
    found = yaml.safe_load((folder() / "recipes.yaml").read_text())
    for benchmark in found.values():
        for row in benchmark["rows"]:
            row["objective"] = objective_identity(objective(row["objective"]))
    return found


def published_for(dataset: str, teacher: str, student: str, terms: Any) -> Published | None:
    """The number that the literature has for our nets `teacher` and `student` (`cifar_resnet20`) and an objective.

    `terms`: the objective as it stands in a record, every setting filled in. None when there is no such number.
    """
    benchmark = recipes().get(dataset)
    if benchmark is None:
        return None
    names = [name.removeprefix(benchmark["prefix"]) for name in (teacher, student)]
    if not all(name.startswith(benchmark["prefix"]) for name in (teacher, student)):
        return None
    for row in benchmark["rows"]:
        if _stands_for(benchmark, row, names) and row["objective"] == terms:
            return _number(load(dataset), benchmark["setting"], row, names)
    return None


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
    benchmark = recipes().get(recipe["dataset"]["name"])
    if benchmark is None or recipe["validation"] != 0:
        return False
    student = recipe["student"]["model"].removeprefix(benchmark["prefix"])
    slow = benchmark["slow_students"]
    wanted = benchmark["train"] | ({"lr": slow["lr"]} if student in slow["students"] else {})
    teacher = recipe["teacher"]
    same_teacher = "checkpoint" in teacher["model"] or _without(teacher.get("train", {})) == benchmark["train"]
    return _without(recipe["train"]) == wanted and same_teacher


def _without(train: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in train.items() if name != "precision"}


@dataclass(frozen=True)
class Beside:
    """What stands beside a row of ours: NaN and empty where the literature has nothing for it."""

    number: float = math.nan
    difference: float = math.nan  # ours - theirs; NaN where the training, the pair or the protocol is another
    protocol: str = ""
    source: str = ""

    @property
    def columns(self) -> dict[str, float | str]:
        return {"published": self.number, "ours - published": self.difference,
                "published_protocol": self.protocol, "published_source": self.source}  # fmt: skip


def beside(identity: Mapping[str, Any], last: float, best: float) -> Beside:
    """The literature's number for a row. `identity`: of one of its cells; `last`, `best`: our mean score after the last
    epoch, and at the best test epoch (NaN without a finished cell).
    """
    teacher, student = identity["teacher"]["model"], identity["student"]
    plain = all(set(net) <= {"model", "pretrained", "checkpoint"} for net in (teacher, student))
    found = published_for(identity["dataset"]["name"], teacher["model"], student["model"], identity["objective"])
    if found is None or not plain:
        return Beside()
    same = same_training(identity)
    ours = {"last": last, "best": best}.get(found.protocol, math.nan) if same else math.nan
    protocol = PROTOCOLS.get(found.protocol, "unstated")
    return Beside(
        number=found.top1,
        difference=ours - found.top1,
        protocol=protocol if same else f"{protocol}; other training than ours",
        source=found.source,
    )

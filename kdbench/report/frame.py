"""Records -> a frame with one row per cell, and what can be read off it: what the cells rest on, and their curves."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.method.metric import metric_of
from kdbench.results.held_out import with_delivered
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell, alone

HEAD = ("key", "dataset", "teacher", "student", "label", "seed", "status", "reason")
GROUP = ["dataset", "teacher", "student"]  # what is compared with each other: one data set, one pair
MADE_BY = (
    "commit", "kdbench", "torch", "timm", "torchvision", "numpy", "scikit-learn", "python", "device", "kind", "threads",
    "onednn", "onnxruntime", "onnx", "onnxscript", "torch-pruning", "led_around",
    "num_train", "num_test", "num_classes",
)  # fmt: skip
# A warning is given where cells compared differ in these, or in the file of a method that several of them use
HUB = "hub_weights"  # likewise; of records that begin with such
OWN = MADE_BY[16:]  # the record's own entries; the others are among its versions
SHOWN = MADE_BY[:4] + MADE_BY[7:17]  # what "What it rests on" tells

Curves = dict[str, dict[str, list[float]]]  # pair's title -> row's label -> mean score after every epoch


def title(group: Iterable[Any]) -> str:
    dataset, teacher, student = group
    return f"{dataset}: {teacher} → {student}"


def frame_of(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record."""
    return pd.DataFrame(rows_of(records))


def rows_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What a frame says of each record: column -> value."""
    rows = []
    for record in records:
        profile = record.get("profile") or {}
        made = {**(record.get("versions") or {}), **{name: record.get(name) or None for name in OWN}}
        made["led_around"] = record.get("led_around")  # "" is an answer: nothing was
        objective = record["settings"].get("objective")
        rows.append({
            **dict.fromkeys([*HEAD, "alone"]),  # their place; whatever else is called so does not stand in it
            **{name: value for name, value in with_delivered(record).items() if not isinstance(value, list | dict)},
            **{f"student_{k}": v for k, v in (profile.get("student") or {}).items()},
            **{f"teacher_{k}": v for k, v in (profile.get("teacher") or {}).items()},
            **{f"{n}_{k}": v for n in ("file", "uncompressed", "ran") for k, v in (profile.get(n) or {}).items()},
            **{f"cost_{k}": v for k, v in (record.get("cost") or {}).items()},
            **{name: record.get(name) for name in HEAD},
            "alone": objective in alone() and not record["settings"].get("then"),
            "metric": metric_of(record).name,
            "metric_words": metric_of(record).words,
            "score": record["scores"].get(metric_of(record).test),
            **{name: None if made.get(name) is None else str(made[name]) for name in MADE_BY},
            "method_files": json.dumps(made.get("method_files") or {}, sort_keys=True),
            **({HUB: json.dumps(found, sort_keys=True)} if (found := record.get(HUB)) else {}),
            "repeatable": record.get("repeatable") is not False,
            "objective": json.dumps(objective, sort_keys=True),
            "recipe": json.dumps(record["settings"], sort_keys=True),
            "finished": record.get("finished"),
        })  # fmt: skip
    return rows


def with_missing(records: Iterable[Record], wanted: Iterable[Cell]) -> pd.DataFrame:
    """A row per cell in the order of the suite, of status `missing` for every cell that has no record.

    Names and labels are the suite's present ones: a row may have been renamed since its record was written.
    """
    have = {row["key"]: row for row in rows_of(records)}
    names = Names()
    rows = []
    for cell in wanted:
        missing = {"status": "missing", "reason": "", "alone": cell.is_alone}
        row: dict[Any, Any] = have.get(cell.key) or missing
        here: dict[str, Any] = dict(zip(GROUP, names(cell), strict=True))
        here |= {"alone": cell.is_alone, "adapts": "\t".join(names(cell.start)) if cell.adapts and cell.start else None}
        here |= {"begun_by": by} if (by := taught_start(cell)) else {}
        here |= {"control": cell.control} if cell.control and not cell.adapts else {}
        if cell.adapts:  # no teacher was asked
            row = {name: value for name, value in row.items() if not str(name).startswith("teacher_")}
        here |= {"origin": cell.origin.key, "make": shape_of(cell)} if cell.filed and not cell.adapts else {}
        rows.append({**row, "key": cell.key, **here, "seed": cell.seed, "label": cell.label,
                     "teacher_key": cell.teacher_key})  # fmt: skip
    return pd.DataFrame(rows)


def taught_start(cell: Cell) -> str:
    """What its student begins with, in words, where a teacher had a part in that; empty where none had."""
    if cell.giver is not None and cell.student.start is not None:
        return cell.student.start.short
    if cell.start is None or cell.adapts:
        return ""
    by = taught_start(cell.start) if cell.start.is_alone else ""
    return by or (f"the student of {cell.start.label}, which had a teacher" if not cell.start.is_alone else "")


def shape_of(cell: Cell) -> str:
    """Equal for cells whose student has the same shapes before all that was done to it."""
    return cell.origin.make.model_copy(update={"pretrained": False, "checkpoint": None}).model_dump_json()


class Names:
    """Names of data set, teacher and student that tell comparisons apart: a second one of that name becomes `x (2)`.

    Two folders are both called `folder`, two teachers may differ in their checkpoint alone, and one pair
    may stand in a suite twice with other rates.
    """

    def __init__(self) -> None:
        self._names: dict[tuple[str, ...], str] = {}
        self._last: tuple[tuple[Any, ...], tuple[str, str, str]] | None = None
        self._number: dict[tuple[str, str], int] = {}

    def __call__(self, cell: Cell) -> tuple[str, str, str]:
        specs = cell.dataset, cell.teacher, cell.student, cell.train
        if self._last is None or any(a is not b for a, b in zip(specs, self._last[0], strict=True)):
            self._last = specs, self._found(cell)  # those of the next cell are mostly the same
        return self._last[1]

    def _found(self, cell: Cell) -> tuple[str, str, str]:
        after = f" after {cell.start.dataset.name}" if cell.adapts and cell.start else ""
        dataset = self._unique("", cell.dataset.name + after, f"{cell.dataset}{after}")
        file = cell.teacher.checkpoint
        teacher = cell.teacher.short + (f" [{Path(file).name}]" if file else "")
        teacher = self._unique(dataset, teacher, str(cell.teacher))
        pair = f"{cell.teacher} {cell.student} {cell.train}"
        return dataset, teacher, self._unique(f"{dataset} {teacher}", cell.student.short, pair)

    def _unique(self, where: str, name: str, what: str) -> str:
        """`name`, numbered if something else in the same place has it already."""
        if (where, name, what) not in self._names:
            number = self._number[where, name] = self._number.get((where, name), 0) + 1
            self._names[where, name, what] = name if number == 1 else f"{name} ({number})"
        return self._names[where, name, what]


@dataclass(frozen=True)
class Sources:
    """What the finished cells rest on, and a warning wherever a comparison mixes it."""

    num_done: int
    made_by: dict[str, list[str]]  # commit, torch, ... -> every value that occurs
    warnings: list[str]
    refused: tuple[str, ...] = ()  # records that were not believed, and why
    command: str = ""  # that made them


@dataclass(frozen=True)
class Beside:
    """What is known beside the records. `notes`: warnings; `refused`: what was wrong with records that don't count.

    `checked`: key -> what `kdbench verify` found of a cell; `command`: that made the records.
    """

    notes: Iterable[str] = ()
    refused: Iterable[str] = ()
    checked: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


NOTHING = Beside()


def sources_of(frame: pd.DataFrame, beside: Beside = NOTHING) -> Sources:
    done = frame[frame["status"] == "done"] if len(frame) else frame
    known = [name for name in (*MADE_BY, HUB) if name in done]
    found = {name: sorted({str(v) for v in done[name].dropna() if v != ""}) for name in known if name in SHOWN}
    warnings = [*beside.notes]
    for group, part in done.groupby(GROUP, sort=False) if known else []:
        for name in known:
            values = sorted({str(value) or "nothing" for value in part[name].dropna()})
            if len(values) > 1:
                warnings.append(f"{title(group)}: cells are compared that differ in {name}: {', '.join(values)}")
        warnings += _edited(title(group), part)
    if dirty := [commit for commit in found.get("commit", []) if commit.endswith("-dirty")]:
        warnings.append(
            f"some cells were made with uncommitted changes ({', '.join(dirty)}): the commit does not say all"
        )
    if "repeatable" in done and (done["repeatable"] == False).any():  # noqa: E712  (missing cells have None)
        warnings.append("some cells were made on a machine that does not repeat itself: made again they would differ")
    return Sources(len(done), found, warnings, tuple(beside.refused), beside.command)


def _edited(where: str, part: pd.DataFrame) -> list[str]:
    """A warning for every method whose file was not the same for all the cells that use it."""
    seen: dict[str, set[str]] = {}
    for text in part["method_files"].dropna().unique() if "method_files" in part else ():
        for method, digest in json.loads(text).items():
            seen.setdefault(method, set()).add(digest)
    return [
        f"{where}: cells are compared whose code of {method} differs: {', '.join(sorted(digests))}"
        for method, digests in sorted(seen.items())
        if len(digests) > 1
    ]


def curves_of(frame: pd.DataFrame, records: Iterable[Record]) -> Curves:
    """Mean test score of the finished cells after every epoch."""
    by_key = {r["key"]: (r.get("curves") or {}).get(metric_of(r).test) for r in records if r["status"] == "done"}
    gathered: dict[str, dict[str, list[list[float]]]] = {}
    for key, label, *group in frame.reindex(columns=["key", "label", *GROUP]).itertuples(index=False):
        if curve := by_key.get(key):
            gathered.setdefault(title(group), {}).setdefault(str(label), []).append(curve)
    return {pair: {label: _mean(curves) for label, curves in rows.items()} for pair, rows in gathered.items()}


def _mean(curves: list[list[float]]) -> list[float]:
    """Epoch by epoch, over the seeds; as long as the shortest."""
    # exact sums: the same digits in whatever order the seeds come
    return [math.fsum(values) / len(curves) for values in zip(*curves, strict=False)]

"""From a frame of cells to the rows of each pair."""

import math
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kdbench.method.metric import TOP1, Metric, metric_of
from kdbench.report.frame import GROUP, title
from kdbench.report.gains import Gains, gains_of, references_of, rows_of
from kdbench.report.looks import Looked
from kdbench.report.predictions import ByLabel, between_seeds, copied, outcomes_of
from kdbench.report.published import beside
from kdbench.report.rows import LOST, NAN, NOT_DONE, Cost, File, Pair, Row, Scores, Size
from kdbench.report.standing import Standing, standing_of
from kdbench.results.looks_file import Declared
from kdbench.results.outcomes import OUTCOMES
from kdbench.results.schema import Record
from kdbench.results.verified_file import EPOCH, WEIGHTS

AT_ONCE = min(4, os.cpu_count() or 1)  # pairs; each takes up to 200 MB while it is computed
MEANS = (
    "test_",
    "validation_",
    "teacher_",
    "student_",
    "cost_",
    "file_",
    "uncompressed_",
    "ran_",
)  # columns of the frame that are averaged
Identities = Mapping[tuple[str, ...], Mapping[str, Any]]  # (data set, teacher, student, label) -> a cell's identity


@dataclass(frozen=True)
class Sought:
    """What is to be said of each pair. `identities`: asks for the literature's number beside each row."""

    reference: str
    identities: Identities | None = None
    declared: Declared | None = None  # looks, where seeds are added until decided


def pairs_of(frame: pd.DataFrame, sought: Sought, records: Iterable[Record] = ()) -> list[Pair]:
    """The comparisons of a frame, with one row per label in order of appearance; only cells that are done count.

    `records`: tell what each student made of each test example.
    """
    packed = {record["key"]: record[OUTCOMES] for record in records if record.get(OUTCOMES)}
    groups: Any = frame.groupby(GROUP, sort=False) if len(frame) else []
    with ThreadPoolExecutor(AT_ONCE) as threads:  # NumPy leaves Python's lock while it draws and sorts
        return list(threads.map(lambda group: _pair_of(title(group[0]), group[1], sought, packed), groups))


def _pair_of(name: str, part: pd.DataFrame, sought: Sought, packed: Mapping[str, Any]) -> Pair:
    done = part[part["status"] == "done"]
    scores, lost = scores_of(done), _counts(part, LOST)
    alone = set(part.loc[part["alone"].astype(bool), "label"])
    outcomes = outcomes_of(done, packed)
    right = outcomes if metric_in(part) == TOP1 else None  # other scores are no mean over examples
    looked = _looked(part, alone, sought)
    gains = gains_of(scores, alone, sought.reference, lost, right, looked.progress if looked else None)
    standing = standing_of(scores, lost, _counts(part, ("done", *NOT_DONE)))
    found = Found(scores, alone, gains, standing, outcomes)
    own = done[done["control"].isna()] if "control" in done else done
    num_teachers = own["teacher_key"].nunique() if "teacher_key" in own else 1
    return Pair(name, list(_rows_of(part, found, sought)), standing, num_teachers, looked)


def _looked(part: pd.DataFrame, alone: set[str], sought: Sought) -> Looked | None:
    """The looks at a pair whose seeds are added until decided; a cell that gave no score counts as tried."""
    if sought.declared is None:
        return None
    tried: dict[str, dict[Hashable, float]] = {}
    for label, seed, status, score in part.reindex(columns=["label", "seed", "status", "score"]).itertuples(
        index=False
    ):
        if status != "skipped":  # what does not apply has no seed to wait for
            runs = tried.setdefault(str(label), {})
            if status != "missing":
                runs[int(seed)] = float(score) if status == "done" else NAN
    return Looked.at(sought.declared, tried, references_of(tried, alone, sought.reference))


@dataclass(frozen=True)
class Found:
    """What is known of a pair before its rows are made."""

    scores: pd.DataFrame
    alone: set[str]
    gains: Gains
    standing: Standing
    outcomes: ByLabel


def _counts(part: pd.DataFrame, states: tuple[str, ...]) -> dict[str, int]:
    """label -> how many of its cells are in one of these states."""
    found = part["status"].isin(states).groupby(part["label"], sort=False).sum()
    return {str(label): int(count) for label, count in found.items()}


def scores_of(done: pd.DataFrame) -> pd.DataFrame:
    """Scores of one pair's finished cells: one row per label, one column per seed, both in order of appearance."""
    if "score" not in done or not len(done):
        return pd.DataFrame()
    wide = done.pivot_table(index="label", columns="seed", values="score", aggfunc="first").astype(float)
    return wide.reindex(index=done["label"].unique(), columns=done["seed"].unique())


def _rows_of(part: pd.DataFrame, found: Found, sought: Sought) -> Iterator[Row]:
    metric, scores = metric_in(part), rows_of(found.scores)
    means = _means_of(part[part["status"] == "done"])
    for label, cells in _by_label(part).items():
        ours = list(scores.get(str(label), {}).values())
        mean = means.get(label, {})
        score, best = mean.get(metric.test, NAN), mean.get(metric.best, NAN)
        dataset, teacher, student = (str(cells[name][0]) for name in GROUP)
        place = dataset, teacher, student, str(label)
        yield Row(
            dataset=dataset,
            teacher=teacher,
            student=student,
            label=str(label),
            metric=metric,
            alone=label in found.alone,
            n=len(ours),
            cells=len(cells["label"]),
            not_done={status: cells["status"].count(status) for status in NOT_DONE},
            reason=_first_text(cells, "reason"),
            settings=_first_text(cells, "objective"),
            recipe=_first_text(cells, "recipe"),
            means=mean,
            score=score,
            std=float(np.std(ours, ddof=1)) if len(ours) > 1 else NAN,
            best=best,
            chosen=mean.get(metric.chosen, NAN),
            validation=mean.get(metric.validation, NAN),
            held_out=mean.get(metric.delivered, NAN),
            teacher_score=mean.get(metric.teacher, NAN),
            scores=Scores.of(mean),
            size=Size.of(mean, "student_"),
            teacher_size=Size.of(mean, "teacher_"),
            cost=Cost.of(mean, "cost_"),
            gain=found.gains.alone.get(str(label)),
            reference_gain=found.gains.reference.get(str(label)),
            published=None
            if sought.identities is None
            else beside(sought.identities[place], score, best, mean.get(metric.teacher, NAN)),
            ranked=found.standing.means.get(str(label), NAN),
            file=File.of(mean, "file_"),
            before=File.of(mean, "uncompressed_" if math.isfinite(mean.get("uncompressed_bytes", NAN)) else "file_"),
            control=_first_text(cells, "control"),
            begun_by=_first_text(cells, "begun_by"),
            adapts=_first_text(cells, "adapts"),
            checked=checked_in_words(cells.get("checked", []), len(ours)),
            tier=found.standing.tier(str(label)),
            between_seeds=between_seeds(found.outcomes.get(str(label), {})),
            copied=NAN if _first_text(cells, "adapts") else copied(found.outcomes.get(str(label), {})),
        )


def metric_in(part: pd.DataFrame) -> Metric:
    """What the cells of one pair are judged by."""
    known, words = (part[name].dropna().tolist() if name in part else [] for name in ("metric", "metric_words"))
    metric = metric_of({"metric": known[0] if known else None})
    return replace(metric, words=words[0]) if known and words else metric


def _means_of(done: pd.DataFrame) -> dict[Any, dict[str, float]]:
    """label -> column -> mean over the seeds, of every numeric column."""
    if not len(done):
        return {}
    numbers = [name for name in done.columns if str(name).startswith(MEANS)]
    means = done.groupby("label", sort=False)[numbers].mean(numeric_only=True)
    return {label: {str(k): float(v) for k, v in row.items()} for label, row in means.to_dict("index").items()}


def _by_label(part: pd.DataFrame) -> dict[Any, dict[str, list[Any]]]:
    """label -> column -> its cells' values; of ten thousand rows, a frame for each would take half a minute."""
    wanted = ("label", "status", *GROUP, "reason", "objective", "recipe", "control", "adapts", "checked", "begun_by")
    names = [name for name in wanted if name in part]
    found: dict[Any, dict[str, list[Any]]] = {}
    for values in part[names].itertuples(index=False, name=None):
        cells = found.setdefault(values[0], {name: [] for name in names})
        for name, value in zip(names, values, strict=True):
            cells[name].append(value)
    return found


def checked_in_words(levels: Sequence[str], done: int) -> str:
    """`weights 5/5, epoch 1/5`: of how many of the `done` cells they were evaluated again, or an epoch replayed."""
    counts = {name: sum(name in level.split() for level in levels) for name in (WEIGHTS, EPOCH)}
    return ", ".join(f"{name} {count}/{done}" for name, count in counts.items() if count)


def _first_text(cells: Mapping[str, list[Any]], column: str) -> str:
    return next((text for text in cells.get(column, []) if isinstance(text, str) and text), "")

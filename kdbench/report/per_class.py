"""Which classes an objective gains and loses against the student alone: paired by seed, one test per class, corrected.

A mean over all test examples can hide that one class pays for another's gain. But many classes with few examples each
are many chances to be wrong: a gain or loss is named only where it stands after Holm's correction over every class of
every objective of the pair.
"""

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import scipy

from kdbench.report.frame import GROUP, title
from kdbench.report.statistics import ALPHA, Floats, holm
from kdbench.results.schema import Record

ClassWords = dict[tuple[str, str], str]  # (title, objective) -> what is certain of single classes

MOST_NAMED = 3  # classes named in a sentence, on either side


def per_class(frame: pd.DataFrame, records: Iterable[Record]) -> pd.DataFrame:
    """One row per data set, pair, objective and class: mean score, and its gain over the student alone.

    `gain`, `low`, `high` (95% t interval), `n` (common seeds), `p`, `p_holm`; NaN where the data can't give it. Empty
    when no record tells its classes.
    """
    known = {record["key"]: found for record in records if (found := _scores(record)) is not None}
    names = {record["key"]: record.get("classes") or [] for record in records}
    parts: list[pd.DataFrame] = []
    done = frame[frame["key"].isin(known) & (frame["status"] == "done")] if known else frame[:0]
    for group, part in done.groupby(GROUP, sort=False) if len(done) else []:
        made = _of_pair(_by_label(part), known, names)
        for place, (name, value) in enumerate(zip(GROUP, group, strict=True)):
            made.insert(place, name, str(value))
        parts.append(made.assign(p_holm=holm(made["p"].tolist())))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _of_pair(cells: "dict[str, _Own]", known: dict[str, Floats], names: dict[str, list[str]]) -> pd.DataFrame:
    scores = [{seed: known[key] for seed, key in own.keys.items()} for own in cells.values()]
    alone = {
        seed: value
        for own, ours in zip(cells.values(), scores, strict=True)
        if own.alone
        for seed, value in ours.items()
    }
    bases = [{} if own.alone else alone for own in cells.values()]
    tested = _tested([_differences(ours, base) for ours, base in zip(scores, bases, strict=True)])
    rows = []
    for (label, own), ours, found in zip(cells.items(), scores, tested, strict=True):
        means = _means(ours, names[next(iter(own.keys.values()))])
        rows.append({"objective": np.full(len(found["gain"]), label, dtype=object), **means, **found})
    return pd.DataFrame({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})


@dataclass
class _Own:
    """A row's cells of one pair: seed -> key."""

    alone: bool
    keys: dict[int, str] = field(default_factory=dict)


def _by_label(part: pd.DataFrame) -> dict[str, _Own]:
    found: dict[str, _Own] = {}
    for label, alone, seed, key in part[["label", "alone", "seed", "key"]].itertuples(index=False, name=None):
        own = found.setdefault(str(label), _Own(False))
        own.alone |= bool(alone)
        own.keys[seed] = key
    return found


def _scores(record: Record) -> Floats | None:
    """Top-1 of every class, [K]; NaN for a class without test examples. None where the record does not say."""
    given = record.get("test_top1_per_class")
    if record["status"] != "done" or given is None or len(given) == 0 or len(given) != record.get("num_classes"):
        return None
    return np.asarray(given, dtype=np.float64)


BySeed = dict[int, Floats]  # seed -> score of every class, [K]


def _means(ours: BySeed, names: list[str]) -> dict[str, Any]:
    mean = np.mean(list(ours.values()), axis=0)
    count = len(mean)
    named = names if len(names) == count else [str(number) for number in range(count)]
    return {"class": np.arange(count), "name": np.array(named, dtype=object), "top1": mean}


def _differences(ours: BySeed, alone: BySeed) -> Floats:
    """[common seeds, K]"""
    common = [seed for seed in ours if seed in alone]
    return np.array([ours[seed] - alone[seed] for seed in common]).reshape(len(common), len(next(iter(ours.values()))))


def _tested(differences: list[Floats]) -> list[dict[str, Floats]]:
    """Differences [seeds, classes] of each row -> mean, interval and p-value of every class.

    Rows with as many seeds are tested at once.
    """
    found: list[dict[str, Floats]] = [{} for _ in differences]
    for n in {len(values) for values in differences}:
        alike = [place for place, values in enumerate(differences) if len(values) == n]
        numbers = _numbers(np.concatenate([differences[place] for place in alike], axis=1))
        ends = np.cumsum([differences[place].shape[1] for place in alike])[:-1]
        for name, values in numbers.items():
            for place, own in zip(alike, np.split(values, ends), strict=True):
                found[place][name] = own
    return found


def _numbers(differences: Floats) -> dict[str, Floats]:
    n, count = differences.shape
    nothing = np.full(count, np.nan)
    found = {"n": np.full(count, n), "gain": differences.mean(axis=0) if n else nothing}
    if n < 2:
        return {**found, "low": nothing, "high": nothing, "p": nothing}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with the same difference on every seed: no spread to judge by
        test = scipy.stats.ttest_1samp(differences, 0.0, axis=0)
    spread = np.ptp(differences, axis=0) > 1e-9
    interval = test.confidence_interval(1 - ALPHA)
    ends = {"low": interval.low, "high": interval.high, "p": test.pvalue}
    return {**found, **{name: np.where(spread, values, np.nan) for name, values in ends.items()}}


def class_words(classes: pd.DataFrame) -> ClassWords:
    """(pair's title, objective) -> what is certain of its classes, in words."""
    if not len(classes):
        return {}
    rows: dict[tuple[str, str], list[Any]] = {}
    for row in classes[[*GROUP, "objective", "name", "gain", "p_holm"]].itertuples(index=False):
        rows.setdefault((title(row[:3]), str(row.objective)), []).append(row)
    return {place: words for place, own in rows.items() if (words := _words(own))}


def _words(rows: list[Any]) -> str:
    """Of one objective; empty when nothing was tested."""
    tested = [row for row in rows if not math.isnan(row.p_holm)]
    sure = sorted((row for row in tested if row.p_holm < ALPHA), key=lambda row: float(row.gain))
    words = [
        f"{word} on {len(some)} of {len(rows)}: {', '.join(map(_one, some[:MOST_NAMED]))}"
        + (" and others" if len(some) > MOST_NAMED else "")
        for some, word in (
            ([r for r in sure if r.gain > 0][::-1], "better"),
            ([r for r in sure if r.gain < 0], "worse"),
        )
        if some
    ]
    rest = "the others" if words else f"all {len(rows)}"
    return "; ".join([*words, f"{rest} not distinguishable from the student alone"]) if tested else ""


def _one(row: Any) -> str:
    return f"{row.name} {row.gain:+z.1f}" if math.isfinite(row.gain) else str(row.name)

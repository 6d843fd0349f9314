"""Which classes an objective gains and loses against the student alone: paired by seed, one test per class, corrected.

A mean over all test pictures can hide that one class pays for another's gain. But many classes with few pictures each
are many chances to be wrong: a gain or loss is named only where it stands after Holm's correction over every class of
every objective of the pair.
"""

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdbench.method.metric import Metric
from kdbench.report.frame import GROUP, title
from kdbench.report.statistics import ALPHA, Floats, holm
from kdbench.results.schema import Record

ClassWords = dict[tuple[str, str], str]  # (title, objective) -> what is certain of single classes

MOST_NAMED = 3  # classes named in a sentence, on either side


def per_class(frame: pd.DataFrame, records: Iterable[Record], metric: Metric) -> pd.DataFrame:
    """One row per data set, pair, objective and class: mean score, and its gain over the student alone.

    `gain`, `low`, `high` (95% t interval), `n` (common seeds), `p`, `p_holm`; NaN where the data can't give it. Empty
    when no record tells its classes.
    """
    known = {record["key"]: found for record in records if (found := _scores(record, metric)) is not None}
    names = {record["key"]: record.get("classes") or [] for record in records}
    parts: list[pd.DataFrame] = []
    done = frame[frame["key"].isin(known) & (frame["status"] == "done")] if known else frame[:0]
    for group, part in done.groupby(GROUP, sort=False) if len(done) else []:
        alone = _by_seed(part[part["alone"].astype(bool)], known)
        rows = []
        for label, own in part.groupby("label", sort=False):
            ours = _by_seed(own, known)
            base = {} if own["alone"].astype(bool).any() else alone
            columns = {
                **dict(zip(GROUP, group, strict=True)), "objective": str(label),
                **_means(ours, names[own["key"].iloc[0]], metric), **_tested(_differences(ours, base)),
            }  # fmt: skip
            rows.append(pd.DataFrame(columns))
        made = pd.concat(rows, ignore_index=True)
        parts.append(made.assign(p_holm=holm(made["p"].tolist())))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _scores(record: Record, metric: Metric) -> Floats | None:
    """Score of every class, [K]; NaN for a class without test pictures. None where the record does not say."""
    given = record.get(metric.per_class)
    if record["status"] != "done" or given is None or len(given) == 0 or len(given) != record.get("num_classes"):
        return None
    return np.asarray(given, dtype=np.float64)


BySeed = dict[int, Floats]  # seed -> score of every class, [K]


def _by_seed(cells: pd.DataFrame, known: dict[str, Floats]) -> BySeed:
    return {seed: known[key] for seed, key in zip(cells["seed"], cells["key"], strict=True)}


def _means(ours: BySeed, names: list[str], metric: Metric) -> dict[str, Any]:
    mean = np.mean(list(ours.values()), axis=0)
    count = len(mean)
    named = names if len(names) == count else [str(number) for number in range(count)]
    return {"class": range(count), "name": named, metric.name: mean}


def _differences(ours: BySeed, alone: BySeed) -> Floats:
    """[common seeds, K]"""
    common = [seed for seed in ours if seed in alone]
    return np.array([ours[seed] - alone[seed] for seed in common]).reshape(len(common), len(next(iter(ours.values()))))


def _tested(differences: Floats) -> dict[str, Any]:
    """Differences [seeds, classes] -> mean, interval and p-value of every class."""
    n, count = differences.shape
    nothing = np.full(count, np.nan)
    found = {"n": n, "gain": differences.mean(axis=0) if n else nothing}
    if n < 2:
        return {**found, "low": nothing, "high": nothing, "p": nothing}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with the same difference on every seed: no spread to judge by
        test = stats.ttest_1samp(differences, 0.0, axis=0)
    spread = np.ptp(differences, axis=0) > 1e-9
    interval = test.confidence_interval(1 - ALPHA)
    ends = {"low": interval.low, "high": interval.high, "p": test.pvalue}
    return {**found, **{name: np.where(spread, values, np.nan) for name, values in ends.items()}}


def class_words(classes: pd.DataFrame) -> ClassWords:
    """(pair's title, objective) -> what is certain of its classes, in words."""
    if not len(classes):
        return {}
    found: ClassWords = {}
    for (*group, label), rows in classes.groupby([*GROUP, "objective"], sort=False):
        tested = rows[rows["p_holm"].notna()]
        sure = tested[tested["p_holm"] < ALPHA].sort_values("gain")
        words = [
            f"{word} on {len(some)} of {len(rows)}: {', '.join(map(_one, some.head(MOST_NAMED).itertuples()))}"
            + (" and others" if len(some) > MOST_NAMED else "")
            for some, word in ((sure[sure["gain"] > 0][::-1], "better"), (sure[sure["gain"] < 0], "worse"))
            if len(some)
        ]
        if len(tested):
            rest = "the others" if words else f"all {len(rows)}"
            found[title(group), str(label)] = "; ".join([*words, f"{rest} not distinguishable from the student alone"])
    return found


def _one(row: Any) -> str:
    return f"{row.name} {row.gain:+.1f}" if math.isfinite(row.gain) else str(row.name)

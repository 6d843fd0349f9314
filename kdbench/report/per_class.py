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

from kdbench.report.statistics import ALPHA, Floats, holm
from kdbench.report.table import GROUP, title
from kdbench.results.records import Record

ClassWords = dict[tuple[str, str], str]  # (title, objective) -> what is certain of single classes

MOST_NAMED = 3  # classes named in a sentence, on either side


def per_class(frame: pd.DataFrame, records: Iterable[Record]) -> pd.DataFrame:
    """One row per data set, pair, objective and class: mean top-1 in percent, and its gain over the student alone.

    `gain`, `low`, `high` (95% t interval), `n` (common seeds), `p`, `p_holm`; NaN where the data can't give it. Empty
    when no record tells its classes.
    """
    known = {record["key"]: found for record in records if (found := _scores(record)) is not None}
    names = {record["key"]: record.get("classes") or [] for record in records}
    parts: list[pd.DataFrame] = []
    done = frame[frame["key"].isin(known) & (frame["status"] == "done")] if known else frame[:0]
    for group, part in done.groupby(GROUP, sort=False):
        rows = [
            _row(dict(zip(GROUP, group, strict=True)), part, str(label), own, known, names)
            for label, own in part.groupby("label", sort=False)
        ]
        made = pd.concat(rows, ignore_index=True)
        parts.append(made.assign(p_holm=holm(made["p"].tolist())))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _scores(record: Record) -> Floats | None:
    """Top-1 of every class, [K]; NaN for a class without test pictures. None where the record does not say."""
    given = record.get("test_top1_per_class")
    if record["status"] != "done" or given is None or len(given) == 0 or len(given) != record.get("num_classes"):
        return None
    return np.asarray(given, dtype=np.float64)


def _row(
    group: dict[str, Any],
    part: pd.DataFrame,
    label: str,
    own: pd.DataFrame,
    known: dict[str, Floats],
    names: dict[str, list[str]],
) -> pd.DataFrame:
    ours = {seed: known[key] for seed, key in zip(own["seed"], own["key"], strict=True)}
    base = part[part["alone"].astype(bool)]
    alone = {seed: known[key] for seed, key in zip(base["seed"], base["key"], strict=True)}
    count = len(next(iter(ours.values())))
    named = names[own["key"].iloc[0]]
    rows = pd.DataFrame({
        **group, "objective": label, "class": range(count),
        "name": named if len(named) == count else [str(number) for number in range(count)],
        "top1": np.mean(list(ours.values()), axis=0),
    })  # fmt: skip
    common = [] if own["alone"].astype(bool).any() else [seed for seed in ours if seed in alone]
    return rows.assign(**_gain(np.array([ours[seed] - alone[seed] for seed in common]).reshape(len(common), count)))


def _gain(differences: Floats) -> dict[str, Any]:
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


def class_words(classes: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(pair's title, objective) -> what is certain of its classes, in words."""
    if not len(classes):
        return {}
    found = {}
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

"""Gains: the pair's model decides, a row that lost seeds is never called better, and words say what numbers do."""

import math

import numpy as np
import pandas as pd
import pytest

from kdbench.report.gains import STUDENT, gains_of, verdict
from kdbench.report.model import Contrast
from kdbench.report.pairs import Sought, _looked
from kdbench.report.text import number, plus_minus
from kdbench.results.looks_file import Declared

# README's cifar100-mini table: mean and standard deviation over three seeds.
MINI = {
    "student": (34.35, 0.59),
    "kd": (40.94, 0.79),
    "at": (40.33, 0.95),
    "sp": (42.29, 0.75),
    "rkd": (37.20, 0.46),
    "kd+at+sp": (43.09, 0.41),
}


def with_moments(moments: dict[str, tuple[float, float]], seed: int) -> pd.DataFrame:
    """Scores of three seeds with these means and deviations."""
    made = np.random.default_rng(seed).normal(size=(len(moments), 3))
    made = (made - made.mean(axis=1, keepdims=True)) / made.std(axis=1, ddof=1, keepdims=True)
    means, spreads = np.array(list(moments.values())).T
    return pd.DataFrame(means[:, None] + spreads[:, None] * made, index=list(moments))


@pytest.mark.parametrize("seed", range(5))
def test_a_gain_of_six_points_is_a_clear_one(seed: int) -> None:
    """The row's own paired t test, corrected, could not see it: with 9 tests and 3 seeds it asks for |t| > 13.4."""
    gains = gains_of(with_moments(MINI, seed), {"student"}, "kd")
    kd = gains.alone["kd"]
    assert (kd.claim, kd.says) == (1, f"better than {STUDENT}")
    assert kd.mean == pytest.approx(6.59)
    assert kd.p_corrected < 0.01
    assert kd.joint_low > 3
    assert kd.high - kd.low < kd.own.high - kd.own.low or kd.own.std < 0.5
    assert set(gains.alone) == set(MINI) - {"student"}
    assert set(gains.reference) == set(MINI) - {"student", "kd"}


def test_a_row_that_lost_seeds_is_never_called_better() -> None:
    scores = with_moments(MINI, 0)
    scores.loc["kd", 2] = math.nan
    scores.loc["rkd"] -= 20
    scores.loc["rkd", 1] = math.nan
    gains = gains_of(scores, {"student"}, "sp", {"kd": 1, "rkd": 1}).alone
    assert gains["kd"].contrast.claimed
    assert (gains["kd"].claim, gains["kd"].n) == (0, 2)
    assert gains["kd"].says.startswith("lost 1 seed, so it can't be called better than the student alone")
    assert gains["rkd"].claim == -1
    assert gains["rkd"].says.startswith("lost 1 seed")
    assert gains["rkd"].says.endswith("worse than the student alone")
    assert gains_of(scores, {"student"}, "sp").alone["kd"].claim == 1  # seeds that are only missing yet


def test_without_the_student_or_the_reference_nothing_is_compared() -> None:
    gains = gains_of(with_moments(MINI, 0).drop(index=["student", "kd"]), set(), "kd")
    for gain in (gains.alone["sp"], gains.reference["sp"]):
        assert (gain.n, gain.claim, gain.has_interval, gain.tested) == (0, 0, False, False)
    assert gains.alone["sp"].says == f"no seed in common with {STUDENT}"


def test_the_student_alone_as_the_reference_is_tested_once() -> None:
    gains = gains_of(with_moments(MINI, 0), {"student"}, "student")
    once = gains_of(with_moments(MINI, 0), {"student"}, "not there")
    assert gains.alone["kd"].contrast == gains.reference["kd"].contrast
    assert gains.alone["kd"].p_corrected == once.alone["kd"].p_corrected


def test_words() -> None:
    unsure = Contrast("row", "kd", 5, mean=0.4, low=-0.1, high=0.9, p=0.09, corrected=0.3, std=0.4, seeds_needed=10)
    assert verdict(unsure, "kd") == "not distinguishable from kd at n = 5; about 10 seeds would be needed"
    alone = Contrast("row", "kd", 5, mean=0.4, low=0.1, high=0.7, p=0.03, corrected=0.3, std=0.3, seeds_needed=8)
    assert "after correction it is not" in verdict(alone, "kd")
    better = Contrast("row", "kd", 5, mean=0.4, p=0.001, corrected=0.01, std=0.1, claimed=True)
    assert verdict(better, "kd") == "better than kd"
    worse = Contrast("row", "kd", 3, mean=-9, p=0.003, corrected=0.02, std=1.0, claimed=True)
    assert verdict(worse, "kd") == "worse than kd"
    assert verdict(Contrast("row", "kd", 1, mean=1.0), "kd").startswith("one seed")
    assert verdict(Contrast("row", "kd"), "kd") == "no seed in common with kd"
    assert "no spread" in verdict(Contrast("row", "kd", 2, mean=1.0), "kd")
    assert (
        verdict(Contrast("row", "kd", 2, mean=0.0, p=1.0, corrected=1.0), "kd")
        == "not distinguishable from kd at n = 2"
    )


def test_what_is_0_as_it_is_written_has_no_minus():
    assert [number(-0.001), number(-0.001, sign=True), number(-0.04, 1, sign=True)] == ["0.00", "+0.00", "+0.0"]
    assert [number(-0.006), number(-0.006, sign=True)] == ["-0.01", "-0.01"]
    assert plus_minus(-0.001, 0.5) == "0.00 ± 0.50"


def test_looks_are_at_the_student_alone_that_applies() -> None:
    """Of a suite for classes and for numbers one of the two students alone is skipped on each data set."""
    rows = [
        {"label": label, "seed": seed, "status": "skipped" if label == "ce" else "done", "score": float(seed + up)}
        for label, up in (("ce", 0), ("mse", 0), ("taught", 1))
        for seed in (0, 1)
    ]
    declared = Declared((2,), (0, 1), ("ce", "mse", "taught"), "kd")
    looked = _looked(pd.DataFrame(rows), {"ce", "mse"}, Sought("kd", declared=declared))
    assert looked is not None
    assert looked.references == ("mse", "kd")
    assert ("taught", "mse") in looked.progress.standings

"""Outcomes on single samples: variance components by hand, coverage on simulated samples, whose errors are copied."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdbench.report.outcomes import agreement, copied_errors, crossed

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import new_samples


def test_components_by_hand() -> None:
    # Seeds 75 and 25, samples 100, 50, 50, 0. Each value - seed - sample + mean is 25 or -25: the rest's mean square
    # is 8 x 625 / 3; the samples' is 2 x 5000 / 3; (10,000 - 5,000) / 3 / 8 = 208.33.
    right = np.array([[True, True, True, False], [True, False, False, False]])
    found = crossed(right)
    assert (found.mean, found.num_seeds, found.num_samples) == (50.0, 2, 4)
    assert found.of_seeds == pytest.approx(25**2)  # variance 1250, two seeds
    assert found.of_samples == pytest.approx(208.3333)


def test_one_seed_says_nothing_about_other_seeds() -> None:
    right = np.random.default_rng(0).random((1, 100)) < 0.7
    found = crossed(right)
    assert math.isnan(found.of_seeds)
    assert math.isnan(found.interval[0])
    assert found.of_samples == pytest.approx(100**2 * right.var(ddof=1) / 100)


def test_two_rows_that_are_right_on_the_same_pictures_do_not_differ_on_new_ones() -> None:
    right = np.random.default_rng(0).random((3, 100)) < 0.7
    assert (crossed(right, right).mean, crossed(right, right).of_samples) == (0.0, 0.0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_coverage_on_new_samples(seeds: int) -> None:
    covered, too_narrow = new_samples.coverage(rows=5, seeds=seeds, samples=300, tables=150)
    assert 0.92 < covered < 0.98
    assert too_narrow < covered - 0.03  # the interval for these samples alone


def test_forty_rows_of_ten_thousand_pictures_take_a_moment() -> None:
    right = np.random.default_rng(0).random((40, 5, 10_000)) < 0.7
    start = time.process_time()
    for row in right[1:]:
        crossed(row, right[0])
    assert time.process_time() - start < 2


def test_agreement_and_copied_errors_by_hand() -> None:
    target = np.array([0, 1, 2, 3])
    teacher = np.array([0, 1, 0, 0])  # wrong on the last two
    student = np.array([[0, 2, 0, 1], [0, 1, 2, 0]])
    assert agreement(student, teacher) == pytest.approx((2 + 3) / 8)
    assert copied_errors(student, teacher, target) == pytest.approx(2 / 4)
    assert copied_errors(student, np.stack([teacher, target]), target) == pytest.approx(1 / 2)
    assert math.isnan(copied_errors(student, target, target))

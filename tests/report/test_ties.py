"""Rows that can't be told apart from the best, and what a winner gains by chance."""

import math

import numpy as np
import pytest

from kdbench.report.statistics import fewer
from kdbench.report.ties import tied_for_top, tiers, winners_advantage


def drawn(means: list[float], seeds: int, rng: np.random.Generator) -> dict[str, dict[int, float]]:
    made = np.array(means)[:, None] + 0.3 * rng.standard_normal((len(means), seeds))
    return {f"r{i}": dict(enumerate(row)) for i, row in enumerate(made)}


def test_rows_far_apart_are_not_tied() -> None:
    scores = drawn([60, 70, 65, 70.01], 3, np.random.default_rng(0))
    assert set(tied_for_top(scores)) == {"r1", "r3"}
    assert [set(group) for group in tiers(scores)] == [{"r1", "r3"}, {"r2"}, {"r0"}]


def test_the_best_comes_first_and_thin_rows_are_left_out() -> None:
    scores = {"a": {0: 70.0, 1: 70.4}, "b": {0: 70.5, 1: 70.6}, "one seed": {0: 99.0}, "lost": {0: math.nan}}
    assert tied_for_top(scores) == ("b", "a")
    assert tied_for_top({}) == ()
    assert tied_for_top({"a": {0: 70.0, 1: 70.4}}) == ("a",)
    assert tied_for_top({"a": {0: 70.0, 1: 70.0}, "b": {0: 71.0, 1: 71.0}}) == ("b",)


def test_the_truly_best_row_is_among_the_tied_in_95_percent_of_tables() -> None:
    rng, tables = np.random.default_rng(0), 150
    alike = [tied_for_top(drawn([70] * 8, 3, rng), 300) for _ in range(tables)]
    bound = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / tables)
    assert np.mean(["r0" not in top for top in alike]) < bound  # any of them is the best
    apart = [tied_for_top(drawn([71, 70, 69, 68, 70.9, 70.9], 3, rng), 300) for _ in range(tables)]
    assert np.mean(["r0" not in top for top in apart]) < bound
    assert np.mean(["r3" in top for top in apart]) < 0.01


def test_a_winners_advantage_by_chance() -> None:
    """The expected largest of k normal means: 1.4236 sd for k = 8, 2.1608 for k = 40 (Teichroew 1956)."""
    rng = np.random.default_rng(0)
    small = [winners_advantage([drawn([70] * 9, 3, rng)], "r0", 500) for _ in range(40)]
    large = [winners_advantage([drawn([70] * 41, 3, rng)], "r0", 500) for _ in range(10)]
    assert np.mean(small) == pytest.approx(1.4236 * 0.3 / math.sqrt(3), rel=0.08)
    assert np.mean(large) == pytest.approx(2.1608 * 0.3 / math.sqrt(3), rel=0.08)


def test_over_several_pairs_the_advantage_shrinks_with_their_root() -> None:
    rng = np.random.default_rng(0)
    tables = [drawn([70] * 9, 3, rng) for _ in range(9)]
    one = np.mean([winners_advantage([table], "r0") for table in tables])
    assert winners_advantage(tables, "r0") == pytest.approx(one / 3, rel=0.1)
    assert winners_advantage([], "r0") == 0.0
    assert winners_advantage([{"r0": {0: 70.0}}], "r0") == 0.0


def test_only_tables_of_many_rows_get_fewer_draws() -> None:
    assert [fewer(4000, rows, 250) for rows in (0, 1, 250, 400, 500, 5000)] == [4000, 4000, 4000, 1562, 1000, 1000]
    assert fewer(300, 5000, 250) == 300  # what was asked for is never raised

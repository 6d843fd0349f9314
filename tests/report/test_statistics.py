"""Statistics against numbers worked by hand, against scipy, and on simulated grids whose truth is known."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdbench.report import statistics as st


def by_seed(*values: float) -> pd.Series:
    return pd.Series(values, index=range(len(values)), dtype=float)


def test_a_difference_worked_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, std 1, standard error 1/sqrt(3); t(2, 97.5%) = 4.302653; t = 2 sqrt(3) = 3.4641.
    # The t distribution with 2 degrees of freedom has P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)): p = 1 - t / sqrt(2 + t^2)
    found = st.paired(by_seed(71, 73, 72), by_seed(70, 71, 69))
    assert (found.n, found.mean, found.std) == (3, 2.0, 1.0)
    assert found.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert found.p == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14))


def test_the_p_value_is_that_of_scipys_paired_test() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = by_seed(*draw.normal(71, 1, 7)), by_seed(*draw.normal(70, 1, 7))
    expected = stats.ttest_rel(ours, theirs)
    found = st.paired(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_only_common_seeds_count() -> None:
    ours = pd.Series([71.0, 72.0, 99.0, math.nan], index=[0, 1, 5, 2])
    theirs = pd.Series([70.0, 70.5, 70.0], index=[0, 1, 2])
    found = st.paired(ours, theirs)
    assert found.n == 2
    assert found.mean == pytest.approx(1.25)


def test_one_seed_has_no_interval() -> None:
    found = st.paired(by_seed(71), by_seed(70))
    assert (found.n, found.mean) == (1, 1.0)
    assert all(math.isnan(x) for x in (found.low, found.high, found.p, found.std))


def test_no_seed_in_common() -> None:
    found = st.paired(pd.Series([1.0], index=[0]), pd.Series([1.0], index=[1]))
    assert found.n == 0
    assert math.isnan(found.mean)


def test_equal_differences_claim_nothing() -> None:
    found = st.paired(by_seed(71, 72, 73), by_seed(70, 71, 72))
    assert found.mean == 1
    assert math.isnan(found.p)
    tie = st.paired(by_seed(71, 72), by_seed(71, 72))
    assert tie.p == 1


def test_holm_worked_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04 -> rising: 0.04, 0.06, 0.06, 0.06
    found = st.holm([0.04, math.nan, 0.01, 0.03, 0.02])
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2, 3, 4]], [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(st.holm([0.9, 0.8]), [1, 1])
    assert len(st.holm([])) == 0


@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 30, 50, 100])
def test_the_interval_covers_the_truth(seeds: int) -> None:
    """2,000 simulated comparisons with a true gain of 0.3 points: 93 to 97% of the intervals hold it."""
    draws = np.random.default_rng(seeds).normal(0.3, 0.5, (2000, seeds))
    low, high = st.interval(draws, resamples=1000)
    assert 0.93 <= ((low <= 0.3) & (high >= 0.3)).mean() <= 0.97


def test_a_table_without_true_differences_claims_one_in_at_most_5_percent() -> None:
    """2,000 tables of 8 objectives with 5 seeds, all against the same student, none with a true difference."""
    draw = np.random.default_rng(3)
    scores = draw.normal(70, 0.5, (2000, 9, 5)) + draw.normal(0, 1, (2000, 1, 5))  # what a seed shares
    p = stats.ttest_1samp(scores[:, 1:] - scores[:, :1], 0, axis=2).pvalue
    claims = np.mean([(st.holm(table) < 0.05).any() for table in p])
    noise = 1.645 * math.sqrt(0.05 * 0.95 / 2000)
    assert claims <= 0.05 + noise
    assert (p < 0.05).any(1).mean() > 0.15  # what the correction is for


def test_ranks_of_demsars_example() -> None:
    """Demsar 2006, table 6: AUC of four C4.5 variants on 14 data sets; CD = 2.569 sqrt(4 * 5 / (6 * 14)) = 1.25."""
    rows = """
        0.763 0.768 0.771 0.798
        0.599 0.591 0.590 0.569
        0.954 0.971 0.968 0.967
        0.628 0.661 0.654 0.657
        0.882 0.888 0.886 0.898
        0.936 0.931 0.916 0.931
        0.661 0.668 0.609 0.685
        0.583 0.583 0.563 0.625
        0.775 0.838 0.866 0.875
        1.000 1.000 1.000 1.000
        0.940 0.962 0.965 0.962
        0.619 0.666 0.614 0.669
        0.972 0.981 0.9751 0.975
        0.957 0.978 0.946 0.970
    """
    table = pd.DataFrame([[float(x) for x in row.split()] for row in rows.split("\n") if row.strip()])
    table.columns = pd.Index(["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"])
    found = st.ranking(table)
    assert found is not None
    assert [found.ranks[name][0] for name in table] == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=1e-3)
    assert found.critical == pytest.approx(1.25, abs=0.005)
    assert found.p == pytest.approx(float(stats.friedmanchisquare(*table.to_numpy().T).pvalue))


def test_critical_values_are_those_of_the_paper() -> None:
    # Demsar 2006, table 5a: q at 5% for 2 to 10 classifiers. With N = k (k + 1) / 6 pairs the difference is q itself.
    known = {2: 1.960, 3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}
    for count, q in known.items():
        pairs = 6
        assert st.nemenyi(count, pairs) == pytest.approx(q * math.sqrt(count * (count + 1) / 36), abs=2e-3)


def test_incomplete_objectives_are_left_out_of_the_ranking_and_named() -> None:
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": [2.0, 1, 1], "c": [3.0, math.nan, 5]})
    found = st.ranking(table)
    assert found is not None
    assert found.left_out == ("c",)
    assert found.ranks["a"][0] == pytest.approx(4 / 3)
    assert st.ranking(table.iloc[:1]) is None
    ties = st.ranking(pd.DataFrame({name: [1.0, 1.0] for name in "abc"}))
    assert ties is not None
    assert math.isnan(ties.p)
    assert {rank for rank, _ in ties.ranks.values()} == {2.0}


def test_wins_ties_losses() -> None:
    assert st.wins_ties_losses({"a": 0.3, "b": 0.2, "c": -0.1, "d": -0.5, "e": math.nan}) == (1, 2, 1)

"""The model of a pair: against the paired t test, on simulated tables whose truth is known, and where data are thin."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from kdbench.report import statistics as st
from kdbench.report.chance import inverse_trigamma, step_down
from kdbench.report.model import compare, seeds_needed
from kdbench.report.variances import draw_variances, residuals, spreads_differ

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import power

Row = dict[int, float]

# README's cifar100-mini table: mean and standard deviation over three seeds.
MINI = {
    "student": (34.35, 0.59),
    "kd": (40.94, 0.79),
    "at": (40.33, 0.95),
    "sp": (42.29, 0.75),
    "rkd": (37.20, 0.46),
    "kd+at+sp": (43.09, 0.41),
}


def by_seed(*values: float) -> Row:
    return dict(enumerate(values))


def drawn(rows: int, seeds: int, seed: int = 0, sd: float = 0.3) -> dict[str, Row]:
    made = np.random.default_rng(seed).normal(70, sd, (rows, seeds))
    return {f"r{i}": by_seed(*values) for i, values in enumerate(made)}


def with_moments(mean: float, sd: float, rng: np.random.Generator) -> Row:
    values = rng.normal(size=3)
    return by_seed(*(mean + sd * (values - values.mean()) / values.std(ddof=1)))


def test_two_rows_are_the_paired_t_test() -> None:
    draw = np.random.default_rng(1)
    ours, theirs = by_seed(*draw.normal(71, 1, 5)), by_seed(*draw.normal(70, 1, 5))
    found = compare({"student": theirs, "row": ours}, ["student"], draws=100_000).contrasts[0]
    expected = st.paired(pd.Series(ours), pd.Series(theirs))
    assert (found.n, found.mean) == (5, pytest.approx(expected.mean))
    assert found.df == pytest.approx(4, rel=0.03)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.p == pytest.approx(expected.p, rel=0.03)


def test_a_gain_of_six_points_is_a_clear_claim() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):  # the table has no single seeds: any that give its means and deviations
        scores = {label: with_moments(*moments, rng) for label, moments in MINI.items()}
        found = compare(scores, ["student", "kd"]).of("kd", "student")
        assert found is not None
        assert found.mean == pytest.approx(6.59)
        assert found.claimed
        assert found.corrected < 0.01
        assert found.joint_low > 3


def test_every_row_meets_every_reference_once() -> None:
    found = compare(drawn(5, 3), ["r0", "r1", "not there"])
    pairs = [(c.row, c.reference) for c in found.contrasts]
    assert pairs == [(f"r{i}", "r0") for i in (1, 2, 3, 4)] + [(f"r{i}", "r1") for i in (2, 3, 4)]
    assert found == compare(drawn(5, 3), ["r0", "r1"])


def test_intervals_and_verdicts_agree() -> None:
    for seed in range(20):
        scores = drawn(6, 3, seed)
        scores["r2"] = {s: v + 1.0 for s, v in scores["r2"].items()}
        for c in compare(scores, ["r0", "r1"], draws=2000).contrasts:
            assert c.joint_low <= c.low < c.mean < c.high <= c.joint_high or c.claimed
            assert c.claimed == (c.corrected < 0.05)
            assert c.p <= c.corrected
            assert not (c.joint_low > 0 or c.joint_high < 0) or c.claimed
            assert not c.claimed or not c.joint_low < 0 < c.joint_high


def test_only_common_seeds_count() -> None:
    scores = drawn(6, 3)
    scores["r3"] = {0: 71.0, 2: 72.0, 9: 99.0}
    scores["r4"] = {0: 71.0, 1: math.nan, 2: 72.0}
    found = compare(scores, ["r0"])
    for label in ("r3", "r4"):
        contrast = found.of(label, "r0")
        assert contrast is not None
        assert (contrast.n, contrast.extra) == (2, 0)
        assert contrast.mean == pytest.approx(71.5 - (scores["r0"][0] + scores["r0"][2]) / 2)


def test_one_seed_and_none_get_no_interval() -> None:
    scores = drawn(6, 3)
    scores["r3"], scores["r4"] = {1: 71.0}, {}
    found = compare(scores, ["r0"])
    one, none = found.of("r3", "r0"), found.of("r4", "r0")
    assert one is not None
    assert none is not None
    assert (one.n, one.mean) == (1, pytest.approx(71.0 - scores["r0"][1]))
    assert (none.n, math.isnan(none.mean)) == (0, True)
    for contrast in (one, none):
        assert all(math.isnan(x) for x in (contrast.low, contrast.joint_high, contrast.p, contrast.corrected))
        assert not contrast.claimed
        assert contrast.seeds_needed is None
    assert all(math.isnan(c.low) for c in compare(drawn(5, 1), ["r0"]).contrasts)


def test_no_spread_gives_nothing_to_judge_by() -> None:
    scores = {"student": by_seed(70, 70), "tie": by_seed(70, 70), "higher": by_seed(71, 71)}
    tie, higher = compare(scores, ["student"]).contrasts
    assert (tie.p, tie.claimed) == (1.0, False)
    assert (higher.mean, math.isnan(higher.p), higher.claimed) == (1.0, True, False)
    assert compare({}, ["student"]).contrasts == ()
    assert compare({"student": by_seed(70, 71)}, ["student"]).contrasts == ()


def test_one_row_without_spread_borrows_from_the_others() -> None:
    scores = drawn(8, 3) | {"still": by_seed(70.0, 70.0, 70.0)}
    found = compare(scores, ["r0"])
    assert 0.05 < found.std["still"] < 0.3
    assert all(math.isfinite(c.p) for c in found.contrasts)


def test_residuals_of_a_full_table_are_the_two_way_ones() -> None:
    scores = np.random.default_rng(0).normal(70, 1, (6, 4))
    found = residuals(scores)
    left = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    assert found.squares == pytest.approx((left**2).sum(axis=1))
    assert found.df == pytest.approx(np.full(6, 3 * 5 / 6))


def test_a_seeds_effect_leaves_no_trace_in_the_residuals() -> None:
    scores = np.random.default_rng(0).normal(70, 1, (6, 4))
    shifted = residuals(scores + 10 * np.arange(4))
    assert shifted.squares == pytest.approx(residuals(scores).squares)
    assert shifted.seed_correlation > 0.9


def test_a_references_further_seeds_inform_its_variance() -> None:
    scores = np.random.default_rng(0).normal(70, 1, (6, 8))
    scores[2:, 3:] = np.nan
    found, without = residuals(scores), residuals(scores[:, :3])
    weight = (1 - without.seed_correlation) ** 2
    assert 0.3 < weight <= 1
    assert found.df - without.df == pytest.approx(np.array([4, 4, 0, 0, 0, 0]) * weight)
    assert found.squares[0] - without.squares[0] == pytest.approx(weight * 4 * scores[0, 3:].var(ddof=1))


def test_a_references_further_seeds_sharpen_its_mean() -> None:
    scores = drawn(20, 3)
    scores["r0"] |= {s: v + 0.1 for s, v in enumerate(np.random.default_rng(9).normal(70, 0.3, 7), 3)}
    with_more = compare(scores, ["r0"]).contrasts[0]
    without = compare({k: {s: v for s, v in row.items() if s < 3} for k, row in scores.items()}, ["r0"]).contrasts[0]
    assert (with_more.n, with_more.extra, without.extra) == (3, 7, 0)
    assert with_more.high - with_more.low < 0.95 * (without.high - without.low)
    ours, theirs = np.mean(list(scores["r1"].values())), np.mean(list(scores["r0"].values()))
    common = np.mean([scores["r0"][s] for s in range(3)])
    assert min(ours - theirs, ours - common) - 1e-9 <= with_more.mean <= max(ours - theirs, ours - common) + 1e-9


def test_inverse_trigamma() -> None:
    values = np.array([1e-4, 0.05, 0.6, 1.645, 9.0])
    assert special.polygamma(1, inverse_trigamma(values)) == pytest.approx(values, rel=1e-6)


def test_rows_that_look_alike_share_their_variance_and_others_keep_their_own() -> None:
    rng = np.random.default_rng(0)
    alike = 0.3 * rng.standard_normal((30, 5))
    unlike = alike.copy()
    unlike[:10] *= 6
    log = {}
    for name, scores in (("alike", alike), ("unlike", unlike)):
        spread = np.log(draw_variances(residuals(scores), 2000, rng)).mean(axis=0) / 2
        log[name] = spread
    assert log["alike"].std() < 0.1
    assert np.exp(log["alike"]).mean() == pytest.approx(0.3, rel=0.15)
    assert np.exp(log["unlike"][:10].mean() - log["unlike"][10:].mean()) > 2.5


def test_step_down_by_hand() -> None:
    drawn = np.array([[1.0, 0.5], [2.0, 0.1], [0.2, 3.0], [0.1, 0.2]])  # largest of both: 1, 2, 3, 0.2
    corrected, critical = step_down(np.array([1.5, 0.4]), drawn, level=0.5)
    assert corrected == pytest.approx(
        [3 / 5, 3 / 5]
    )  # two of four above 1.5; of the second two above 0.4, then monotone
    assert critical == pytest.approx([1.5, 0.35])


def test_step_down_finds_what_one_step_does_not() -> None:
    rng = np.random.default_rng(0)
    drawn = np.abs(rng.standard_normal((20_000, 10)))
    t = np.array([6.0] * 9 + [2.1])  # alone at the last step: 1.96 is asked, at the first one 2.8
    corrected, critical = step_down(t, drawn)
    assert corrected[-1] == pytest.approx(2 * stats.norm.sf(2.1), abs=0.005)
    assert critical[-1] == pytest.approx(1.96, abs=0.05)
    assert critical[0] == pytest.approx(2.80, abs=0.05)


def test_seeds_needed_are_those_of_the_corrected_level() -> None:
    """At n seeds the found number's power is 80% there, one seed less gives less; the single test needs fewer."""
    found = compare(drawn(20, 3), ["r0", "r1"])
    small = [c for c in found.contrasts if 0.3 < abs(c.mean) / c.std < 1.5]
    assert len(small) > 5
    for c in small:
        assert c.seeds_needed is not None
        level, df = stats.t.sf(c.critical, c.df), c.df / (c.n - 1)
        power = [
            stats.nct.sf(stats.t.isf(level, df * (n - 1)), df * (n - 1), abs(c.mean) / c.std * math.sqrt(n))
            for n in (c.seeds_needed - 1, c.seeds_needed)
        ]
        assert power[0] < 0.81
        assert power[1] > 0.79
        assert c.seeds_needed > (seeds_needed(c.mean, c.std, 0.025, 1.0) or 0)


def test_seeds_needed_against_known_power() -> None:
    # Cohen 1988: a paired t test of d = 0.5 at 5% two-sided reaches 80% power with 34 pairs, d = 0.8 with 15.
    assert seeds_needed(0.5, 1.0, 0.025, 1.0) == 34
    assert seeds_needed(-0.8, 1.0, 0.025, 1.0) == 15
    assert seeds_needed(0.001, 1.0, 0.025, 1.0) == st.MOST_SEEDS
    assert seeds_needed(1.0, math.nan, 0.025, 1.0) is None


def test_of_three_rows_two_on_a_seed_are_enough() -> None:
    """As while a suite runs: the third row has one seed so far; the other two are the paired t test."""
    scores = {"student": by_seed(70.0, 70.5), "kd": by_seed(71.0, 71.8), "late": by_seed(71.0)}
    found = compare(scores, ["student"], draws=50_000).of("kd", "student")
    expected = st.paired(pd.Series(scores["kd"]), pd.Series(scores["student"]))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.1)


def test_spreads_that_differ_are_told() -> None:
    rng = np.random.default_rng(0)
    alike = [spreads_differ(0.3 * rng.standard_normal((20, 3)), 500) < 0.05 for _ in range(200)]
    differ = [
        spreads_differ(np.exp(0.6 * rng.standard_normal((41, 1))) * rng.standard_normal((41, 3)), 500) < 0.05
        for _ in range(50)
    ]
    assert np.mean(alike) < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 200)
    assert np.mean(differ) > 0.7
    assert math.isnan(spreads_differ(np.array([[1.0, 2.0], [2.0, 1.0]])))
    assert math.isnan(spreads_differ(np.full((5, 3), 70.0)))


@pytest.mark.parametrize(("rows", "spread", "least"), [(8, 0.0, 0.65), (8, 0.3, 0.6), (20, 0.3, 0.6)])
def test_simulated_tables(rows: int, spread: float, least: float) -> None:
    """The full simulation is tests/benchmarks/power.py; here as many tables as a test can afford."""
    tables = 200
    seen = power.simulate(rows, 3, spread, tables, inner=500)
    bound = 0.06 + 2.6 * math.sqrt(0.06 * 0.94 / tables)  # of 0.06, missed in 1 of 200
    assert np.mean([one.false_null for one in seen]) < bound
    assert np.mean([one.false_mixed for one in seen]) < bound
    assert 0.93 < np.mean([one.covered for one in seen]) < 0.975
    assert np.mean([one.found for one in seen]) > least
    assert np.mean([one.paired for one in seen]) < 0.15  # each row's own t, for scale

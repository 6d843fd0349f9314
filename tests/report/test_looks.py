"""Seeds in blocks: what is spent, what is asked for next, and that looking often makes no more false claims."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kdbench.report.looks import spent, until_decided

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import looks as simulation

Scores = dict[str, dict[int, float]]
LOOKS = (3, 5, 8)


def drawn(means: list[float], seeds: int, seed: int = 0) -> Scores:
    made = np.array(means)[:, None] + 0.3 * np.random.default_rng(seed).standard_normal((len(means), seeds))
    return {f"r{i}": dict(enumerate(row)) for i, row in enumerate(made)}


def test_levels_add_up_and_looks_are_checked() -> None:
    assert spent(LOOKS) == pytest.approx([0.05 * 3 / 8, 0.05 * 2 / 8, 0.05 * 3 / 8])
    for looks in ([], [1, 3], [3, 3], [5, 3]):
        with pytest.raises(ValueError, match="rising numbers of seeds"):
            spent(looks)


def test_at_first_all_rows_need_the_first_block() -> None:
    scores: Scores = {"r0": {}, "r1": {0: 70.0}}
    found = until_decided(scores, ["r0"], range(8), LOOKS)
    assert found.standings == {}
    assert found.missing == {"r0": (0, 1, 2), "r1": (1, 2)}


def test_what_is_decided_or_hopeless_gets_no_more_seeds() -> None:
    means = [70, 75, 70.6, 70, 70, 70, 70]
    scores = drawn(means, 3, seed=2)
    scores["r3"] = {s: v + 0.001 * (s - 1) for s, v in scores["r0"].items()}  # no difference at all
    found = until_decided(scores, ["r0"], range(8), LOOKS)
    assert found.standings["r1", "r0"].state == "decided"
    assert found.standings["r3", "r0"].state == "not decidable"
    rows = {row for row, _ in found.among("open")}
    assert set(found.missing) == rows | {"r0"}
    assert all(seeds == (3, 4) for seeds in found.missing.values())


def test_what_was_dropped_is_still_corrected_for() -> None:
    """The comparisons left are the largest of all: tested as if they were all there were, they claim too much."""
    rng = np.random.default_rng(3)
    common = rng.normal(70, 0.3, 5)
    scores = {"r0": dict(enumerate(common))}
    for i in range(1, 12):  # differ from r0 by noise whose mean is 0
        noise = 0.3 * rng.standard_normal(5)
        scores[f"r{i}"] = dict(enumerate(common + noise - noise[:3].mean()))
    scores["r1"] = {s: v + 0.6 for s, v in scores["r1"].items()}
    found = until_decided(scores, ["r0"], range(8), LOOKS, draws=4000)
    assert len([1 for standing in found.standings.values() if standing.state == "not decidable"]) >= 9
    left = found.standings["r1", "r0"]
    assert left.seeds == 5
    alone = stats.t.isf(spent(LOOKS)[1] / 2, left.contrast.df)
    assert left.contrast.critical > alone + 0.3


def test_the_same_runs_give_the_same_answer_and_all_looks_end_it() -> None:
    scores = drawn([70, 71, 70.5, 70], 8)
    found = until_decided(scores, ["r0"], range(8), LOOKS, draws=2000)
    assert found == until_decided(scores, ["r0"], range(8), LOOKS, draws=2000)
    assert found.missing == {}
    assert found.among("open") == []


def test_a_diverged_run_is_not_asked_for_again() -> None:
    scores = drawn([70, 71, 70.5, 70, 70.2], 3)
    scores["r2"][1] = math.nan
    found = until_decided(scores, ["r0"], range(8), LOOKS, draws=2000)
    assert found.standings["r2", "r0"].contrast.n == 2
    assert all(1 not in seeds for seeds in found.missing.values())


def test_the_budget_ends_what_it_cannot_decide() -> None:
    scores = drawn([70, 70.5, 70.5, 70.6], 3, seed=1)
    full = until_decided(scores, ["r0"], range(8), LOOKS, draws=2000)
    short = until_decided(scores, ["r0"], range(8), LOOKS, affordable=3, draws=2000)
    assert full.among("open")
    assert short.among("open") == []
    assert short.missing == {}


def test_false_claims_over_all_looks() -> None:
    tables = 60
    seen = simulation.simulate(rows=5, looks=LOOKS, tables=tables, draws=300)
    assert np.mean([one.false_null for one in seen]) < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / tables)
    assert np.mean([one.false_mixed for one in seen]) < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / tables)
    assert np.mean([one.seeds for one in seen]) < 0.9 * LOOKS[-1]

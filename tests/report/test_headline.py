"""The headline names no winner that the tests don't name: not below the student, not by survivors, not among ties."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from grids import PAIRS, grid, record

from kdbench.report.markdown import begun, markdown
from kdbench.report.summary import headline, winner
from kdbench.report.table import Board, make_board
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell

EIGHT: dict[str, Any] = {"student": {"ce": 1}, **{f"r{n}": {"ce": 1, "kd": 1 + n} for n in range(7)}}


def noise(cells: list[Cell], seed: int, gains: dict[str, float] | None = None, sd: float = 0.3) -> list[Record]:
    draw = np.random.default_rng(seed)
    return [record(cell, 70 + (gains or {}).get(cell.label, 0.0) + float(draw.normal(0, sd))) for cell in cells]


def board_of(cells: list[Cell], records: list[Record]) -> Board:
    return make_board("grid", cells, records)


@pytest.mark.parametrize("pairs", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_pure_noise_has_no_winner(tmp_path: Path, pairs: int, seed: int) -> None:
    """As in the draw that once said: rkd does best over the pairs, -0.04 points against the student alone."""
    _, cells = grid(tmp_path, pairs=PAIRS[:pairs], methods=EIGHT)
    board = board_of(cells, noise(cells, seed))
    text = " ".join(headline(board))
    assert "does best" not in text
    named = (
        "Nothing beats the student alone" in text or "not distinguishable" in text or "No row is surely better" in text
    )
    assert named
    if "Nothing beats" not in text:  # the expected largest of 7 normal means: 1.352 sd
        advantage = re.search(r"If none of the 7 differed .* still lead by (\d\.\d\d)\.", text)
        assert advantage is not None
        assert float(advantage[1]) == pytest.approx(1.352 * 0.3 / math.sqrt(3 * pairs), rel=0.5)
    if pairs > 1:
        assert "can be told apart from it" in text  # ranks


def test_a_winner_over_pairs_below_the_student_is_not_named(tmp_path: Path) -> None:
    """The best average rank of the rows, but below the student alone on average."""
    _, cells = grid(tmp_path, ["student", "kd", "rkd"], pairs=4)
    board = board_of(cells, noise(cells, 0, {"kd": -3, "rkd": -6}))
    text = " ".join(headline(board))
    assert "Nothing beats the student alone over the pairs: kd comes nearest, -" in text
    assert "does best" not in text


def test_a_winner_over_pairs_stands_by_its_test(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, pairs=4)
    board = board_of(cells, noise(cells, 0, {"kd": 2, "rkd": 1}))
    text = " ".join(headline(board))
    assert "kd does best over the pairs: +" in text
    assert "(p < 0.001, corrected over the rows)" in text
    assert board.mean_gains["kd"].claim == 1
    assert board.mean_gains["kd"].low < 2.1
    assert "on 4 of 4 pairs its gain stands" in text


def test_a_mean_gain_by_hand(tmp_path: Path) -> None:
    """Two rows: each pair is a paired t test. Differences 1, 2, 3 and 2, 3, 4: means 2 and 3, both with sd 1."""
    _, cells = grid(tmp_path, ["student", "kd"], pairs=2)
    gains = iter([1, 2, 3, 2, 3, 4])
    records = [record(cell, 70.0 if cell.label == "student" else 70.0 + next(gains)) for cell in cells]
    found = board_of(cells, records).mean_gains["kd"]
    assert found.num == 2
    assert found.mean == pytest.approx(2.5)
    half = 2.776445 * math.sqrt(2 / 3) / 2  # t(4 degrees of freedom) times the standard error
    assert found.low == pytest.approx(2.5 - half, abs=0.03)
    assert found.high == pytest.approx(2.5 + half, abs=0.03)


def test_survivors_do_not_win(tmp_path: Path) -> None:
    """Two of sp's three seeds diverged, the third at 98.5: it once had the highest mean."""
    _, cells = grid(tmp_path)
    records = noise(cells, 0, {"kd": 2})
    for made in records:
        if made["label"] == "sp" and made["seed"] > 0:
            made |= {"status": "diverged", "reason": "loss is nan", "scores": {}, "curves": {}}
        elif made["label"] == "sp":
            made["scores"]["test_top1"] = 98.5
    board = board_of(cells, records)
    assert winner(board) == "kd"
    [pair] = board.pairs
    assert "sp" not in [row.label for row in pair.ranked]
    text = markdown(board)
    assert "sp has the highest mean" not in text
    assert "| 1 of 3, 2 lost |" in text
    first = next(line for line in text.splitlines() if line.startswith("- "))
    assert first.startswith("- sp: 2 of 3 cells diverged: loss is nan; what is left is not a fair sample: not ranked")


def test_survivors_are_not_ranked_over_pairs(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, pairs=3)
    records = noise(cells, 0, {"rkd": 9})
    records[next(n for n, made in enumerate(records) if made["label"] == "rkd")] |= {"status": "diverged", "scores": {}}
    board = board_of(cells, records)
    assert board.ranking is not None
    assert board.ranking.left_out == ("rkd",)
    assert "Not ranked, since without all seeds on every pair: rkd." in markdown(board)
    assert winner(board) != "rkd"


def test_rows_are_ranked_on_the_seeds_that_all_have(tmp_path: Path) -> None:
    """While a suite runs: rows with fewer seeds than the others wait; means are over common seeds."""
    _, cells = grid(tmp_path)
    records = [made for made in noise(cells, 0) if (made["label"], made["seed"]) != ("sp", 2)]
    [pair] = board_of(cells, records).pairs
    assert {row.label for row in pair.ranked} == {"student", "kd", "rkd"}
    assert [row.ranked for row in pair.ranked] == sorted((row.ranked for row in pair.ranked), reverse=True)


def test_more_seeds_of_the_reference_narrow_every_interval(tmp_path: Path) -> None:
    """Its further seeds sharpen its mean as far as seeds don't pair; rows are ranked on common ones."""
    own = {**EIGHT, "student": {"ce": 1, "seeds": list(range(10))}}
    _, cells = grid(tmp_path, methods=own)
    records = noise(cells, 3)
    [wide] = board_of(cells, [made for made in records if made["seed"] < 3]).pairs
    [narrow] = board_of(cells, records).pairs
    assert [(row.n, row.cells) for row in narrow.rows][:2] == [(10, 10), (3, 3)]
    for before, after in zip(wide.rows[1:], narrow.rows[1:], strict=True):
        assert before.gain is not None
        assert after.gain is not None
        assert after.gain.n == 3
        assert after.gain.half < before.gain.half
    assert {row.label for row in narrow.ranked} == set(EIGHT)
    first = [made["scores"]["test_top1"] for made in records if made["label"] == "student" and made["seed"] < 3]
    assert narrow.rows[0].ranked == pytest.approx(np.mean(first))


def test_ties_are_told(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, methods=EIGHT)
    board = board_of(cells, noise(cells, 1, {"r0": 4, "r1": 4, "r2": 4, "r3": -5}, sd=0.1))
    text = markdown(board)
    assert "3 of 8 are tied for the top: r" in text
    groups = {row.label: row.tier for row in board.pairs[0].rows}
    assert [label for label, tier in groups.items() if tier == 0] == ["r0", "r1", "r2"]
    assert groups["r3"] == max(tier for tier in groups.values() if tier is not None)
    line, _ = [line for line in text.splitlines() if line.startswith("| r1 ")]
    assert line.split("|")[3].strip() == "1"
    apart = board_of(cells, noise(cells, 1, {"r0": 9}, sd=0.1))
    assert "No other of the 8 is tied with r0 for the top." in markdown(apart)


def test_what_the_winner_is_chosen_on_is_said(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, ["student", "kd"])
    assert "winner is chosen on the test examples" in markdown(board_of(cells, noise(cells, 0)))


def test_what_intervals_hold_for(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, ["student", "kd"])
    assert "with this one teacher, this split of the data and these test examples" in markdown(
        board_of(cells, noise(cells, 0))
    )
    changed = {"teacher_train": {"seed": "per_seed"}}
    _, cells = grid(tmp_path, ["student", "kd"], **changed)
    assert "each seed has its own teacher, 3 in all" in markdown(board_of(cells, noise(cells, 0)))
    _, cells = grid(tmp_path, ["student", "kd"], seeds=1)
    assert "Intervals hold" not in markdown(board_of(cells, noise(cells, 0)))


@pytest.mark.parametrize(("common", "says"), [(0.0, "0% of their variance"), (3.0, "takes that off every difference")])
def test_what_pairing_by_seed_gains_is_told(tmp_path: Path, common: float, says: str) -> None:
    """`common`: points that a seed adds to every row."""
    _, cells = grid(tmp_path, methods=EIGHT)
    made = noise(cells, 3)
    for entry in made:
        entry["scores"]["test_top1"] += common * entry["settings"]["seed"]
    [line] = [x for x in markdown(board_of(cells, made)).splitlines() if "Rows on the same seed have" in x]
    assert says in line
    assert (common > 0) == (int(re.search(r"(\d+)%", line)[1]) > 90)
    _, cells = grid(tmp_path, ["student", "kd"])
    assert "Rows on the same seed" not in markdown(board_of(cells, noise(cells, 0)))


def test_rows_that_vary_unlike_are_warned_of(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, methods=EIGHT)
    alike = noise(cells, 1)
    assert "The rows differ in how much they vary" not in markdown(board_of(cells, alike))
    for made in alike:
        if made["label"] in ("r5", "r6"):
            made["scores"]["test_top1"] = 70 + 20 * (made["scores"]["test_top1"] - 70)
    assert "**Warning.** The rows differ in how much they vary from seed to seed" in markdown(board_of(cells, alike))


@pytest.mark.parametrize(("teacher", "said"), [
    ({"model": {"pretrained": True}, "train": {"epochs": 5}}, "; fine-tuned from pretrained weights"),
    ({"model": {"checkpoint": "0af3"}, "train": {"epochs": 5}}, "; fine-tuned from weights of a file"),
    ({"model": {"pretrained": True}}, ""),
    ({"model": {"pretrained": False}, "train": {"epochs": 5}}, ""),
])  # fmt: skip
def test_a_fine_tuned_teacher_is_called_so(teacher, said):
    assert begun(SimpleNamespace(recipe=json.dumps({"teacher": teacher}))) == said

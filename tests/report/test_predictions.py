"""Outcomes on single test examples: packed into records, unpacked, and what a table says with them."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import grid, record

from kdbench.api import Options
from kdbench.commands.recommend import recommendation
from kdbench.files import write_json
from kdbench.report.markdown import markdown
from kdbench.report.table import Board, make_board
from kdbench.results.outcomes import Outcomes, packed, unpacked
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell


def drawn(num: int, num_classes: int, seed: int = 0, accuracy: float = 0.7) -> Outcomes:
    draw = np.random.default_rng(seed)
    target = draw.integers(num_classes, size=num)
    predicted, teacher = (
        np.where(draw.random(num) < accuracy, target, draw.integers(num_classes, size=num)) for _ in range(2)
    )
    return Outcomes(predicted, teacher, target)


@pytest.mark.parametrize("num_classes", [2, 256, 257, 70_000])
def test_what_is_packed_comes_out_again(num_classes: int) -> None:
    made = drawn(500, num_classes)
    found = unpacked(json.loads(json.dumps(packed(made, num_classes))))
    assert found is not None
    for name in ("predicted", "teacher", "target"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))


def test_a_record_of_cifar100_grows_by_little() -> None:
    assert len(json.dumps(packed(drawn(10_000, 100), 100))) < 30_000


BASE: dict[str, Any] = {"num_classes": 3, "predicted": "", "teacher": "", "target": ""}


@pytest.mark.parametrize("entry", [{}, {**BASE, "bytes": 1, "predicted": "x"}, {**BASE, "bytes": 3}])
def test_damaged_outcomes_are_none(entry: dict[str, Any]) -> None:
    assert unpacked(entry) is None
    whole = packed(drawn(50, 3), 3)
    assert unpacked({**whole, "teacher": base64.b64encode(b"zz").decode()}) is None
    assert unpacked({**whole, "predicted": packed(drawn(1, 3), 3)["predicted"]}) is None, "one for fifty"
    assert unpacked(packed(drawn(0, 3), 3)) is None, "none at all"


NUM = 400


def records_of(cells: list[Cell], levels: dict[str, float], sd: float = 0.02) -> list[Record]:
    """A student is right on an example where its level is above the example's difficulty, and luck."""
    draw = np.random.default_rng(0)
    target, hard = draw.integers(10, size=NUM), draw.normal(size=NUM)
    teacher = np.where(hard < 1.0, target, (target + 1) % 10)
    made = []
    for cell in cells:
        level = levels[cell.label] + draw.normal(0, sd)
        predicted = np.where(hard + draw.normal(0, 0.4, NUM) < level, target, (target + draw.integers(1, 3, NUM)) % 10)
        outcomes = Outcomes(predicted, teacher, target)
        made.append(record(cell, 100 * float(outcomes.right.mean()), outcomes=packed(outcomes, 10)))
    return made


@pytest.fixture
def board(tmp_path: Path) -> Board:
    _, cells = grid(tmp_path)
    return make_board("grid", cells, records_of(cells, {"student": 0.2, "kd": 0.6, "rkd": 0.25, "sp": 0.2}))


def test_an_interval_for_new_examples_is_wider_and_stands_beside(board: Board) -> None:
    [pair] = board.pairs
    for row in pair.rows[1:]:
        gain = row.gain
        assert gain is not None
        assert gain.new_low <= gain.low < gain.mean < gain.high <= gain.new_high
    kd = board.table[board.table["objective"] == "kd"].iloc[0]
    assert kd["gain_new_low"] < kd["gain_low"]
    text = markdown(board)
    head = next(line for line in text.splitlines() if "with new examples" in line)
    assert "vs student" in head
    [gain] = [row.gain for row in pair.rows if row.label == "kd"]
    assert gain is not None
    assert f"[{gain.new_low:+.2f}, {gain.new_high:+.2f}]" in text


def test_agreement_between_seeds_and_copied_errors_by_hand(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, ["student"], seeds=2)
    target, teacher = np.array([0, 1, 2, 3]), np.array([0, 1, 0, 0])
    students = [np.array([0, 2, 0, 1]), np.array([0, 1, 2, 0])]
    records = [record(cell, 50.0, outcomes=packed(Outcomes(students[cell.seed], teacher, target), 4)) for cell in cells]
    [row] = make_board("grid", cells, records).rows
    assert row.between_seeds == pytest.approx(100 / 4)
    assert row.copied == pytest.approx(100 * 2 / 4)
    assert "| 25.0 |" in " ".join(markdown(make_board("grid", cells, records)).split())


def test_other_examples_and_old_records_give_no_interval(tmp_path: Path) -> None:
    _, cells = grid(tmp_path, ["student", "kd"])
    records = records_of(cells, {"student": 0.2, "kd": 0.6})
    for made in records:
        if made["label"] == "kd":
            made["outcomes"] = packed(drawn(NUM, 10, made["seed"]), 10)  # judged on another split
    [_, kd] = make_board("grid", cells, records).rows
    assert kd.gain is not None
    assert (kd.gain.has_interval, kd.gain.has_new_interval) == (True, False)
    for made in records:
        del made["outcomes"]
    board = make_board("grid", cells, records)
    assert math.isnan(board.rows[1].copied)
    assert "with new examples" not in markdown(board).split("**How to read it.**")[0]


def test_recommend_speaks_of_new_examples(tmp_path: Path) -> None:
    path, cells = grid(tmp_path, ["student", "kd"])
    records = records_of(cells, {"student": 0.2, "kd": 0.6})
    for made in records:
        write_json(tmp_path / "results" / "grid" / "records" / f"{made['key']}.json", made)
    text = recommendation(path, Options(results=tmp_path / "results"))
    gain = make_board("grid", cells, records).rows[1].gain
    assert gain is not None
    assert f"95% interval for new examples of this kind {gain.new_low:+.2f} to {gain.new_high:+.2f}" in text

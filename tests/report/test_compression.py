"""What to ship: sizes of files, drops from the student each was made from, fronts; on the board and in `recommend`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grids import grid, record

from kdbench.api import Options
from kdbench.commands.recommend import recommendation
from kdbench.report.compression import undominated
from kdbench.report.html import html
from kdbench.report.markdown import markdown
from kdbench.report.table import Board, make_board
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.suite.starts import with_starts

TEACHER = {"teacher": "cifar_resnet56"}
HALF = {"model": "cifar_resnet20", "from": {"label": "student"}, "transforms": [{"prune": {"share": 0.5}}]}
PAIRS = [TEACHER | {"student": "cifar_resnet20"}, TEACHER | {"student": HALF}]
ROWS: dict[str, Any] = {
    "student": {"ce": 1},
    "int8": {"by_pair": {"* -> cifar_resnet20": {"ce": 1}}, "then": ["int8"]},
}
# student's name and label -> bytes, milliseconds, MACs, top-1 of the seeds
TOLD: dict[tuple[bool, str], tuple[float, float, float, list[float]]] = {
    (False, "student"): (400e3, 2.0, 40e6, [70.0, 71.0, 72.0]),
    (False, "int8"): (110e3, 1.0, 40e6, [69.5, 70.7, 71.5]),
    (True, "student"): (110e3, 1.5, 11e6, [65.0, 66.0, 67.0]),
}


def made(cell: Cell) -> Record:
    size, ms, macs, top1 = TOLD[bool(cell.student.transforms), cell.label]
    file = {"bytes": size, "ort_ms_b1": ms, "ort_ms_b1_vs_first": ms / 2, "ort_ms_b64": 50 * ms, "peak_mb_b1": 3.0}
    ran = {"QLinearConv": 20, "Conv": 1} if cell.then else {"Conv": 21}
    changed = cell.then or cell.student.transforms
    profile = {
        "student": {"params": size / 4, "macs": macs, **({} if cell.then else {"cpu_ms_b1": 3.0})},
        "teacher": {"params": 1e6, "macs": 1e8, "cpu_ms_b1": 5.0},
        "file": file,
        "ran": ran,
        **({"uncompressed": {"bytes": 400e3, "ort_ms_b1": 2.0}} if changed else {}),
    }
    return record(cell, top1[cell.seed], profile=profile)


def suite(folder: Path) -> tuple[Path, list[Cell]]:
    path, cells = grid(folder, pairs=PAIRS, seeds=3, methods=ROWS)
    return path, with_starts(cells)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    _, cells = suite(tmp_path)
    return make_board("grid", cells, [made(cell) for cell in cells])


def test_drops_are_paired_by_seed_over_pairs(board: Board) -> None:
    [lines] = board.compression.values()
    drops = {(bool("prune" in line.row.student), line.row.label): line.drop for line in lines}
    assert drops[True, "student"].mean == pytest.approx(-5.0)
    expected = np.array([-0.5, -0.3, -0.5])
    assert drops[False, "int8"].mean == pytest.approx(expected.mean())
    half = 4.30265 * expected.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    assert drops[False, "int8"].low == pytest.approx(expected.mean() - half, abs=1e-4)
    assert drops[False, "student"].n == 0  # it was made from nothing


def test_sizes_speeds_and_fronts(board: Board) -> None:
    [lines] = board.compression.values()
    by = {("half " if "prune" in line.row.student else "") + line.row.label: line for line in lines}
    assert by["int8"].ratio == by["half student"].ratio == pytest.approx(400 / 110)
    assert by["int8"].faster == pytest.approx(2.0)
    assert by["int8"].integers == pytest.approx(100 * 20 / 21)
    assert by["student"].integers == 0
    assert by["student"].fronts == ("size", "latency", "MACs")  # the best score
    assert by["int8"].fronts == ("size", "latency")
    assert by["half student"].fronts == ("MACs",)


def test_a_time_is_that_of_no_single_minute(tmp_path: Path) -> None:
    """A machine that was half as fast while one cell was measured: its ratio stays, and the columns agree with it."""
    _, cells = suite(tmp_path)
    records = []
    for cell in cells:
        found = made(cell)
        slow = 2.0 if cell.seed == 0 else 1.0
        for part in ("file", "uncompressed"):
            if part in found["profile"]:
                found["profile"][part]["ort_ms_b1"] *= slow
        records.append(found)
    again = make_board("grid", cells, records)
    [lines] = again.compression.values()
    for line in lines:
        assert line.row.latency * line.faster == pytest.approx(2.0)
    assert sorted(line.row.latency for line in lines) == pytest.approx([1.0, 1.5, 2.0])


def test_rows_that_do_the_same_work_share_one_time_and_so_one_place_on_the_front(tmp_path: Path) -> None:
    rows = ROWS | {"kd": {"kd": 1.0}}
    _, cells = grid(tmp_path, pairs=PAIRS[:1], seeds=3, methods=rows)
    records = []
    for cell in with_starts(cells):
        found = made(cell) if cell.label != "kd" else made(replace(cell, label="student"))
        if cell.label == "kd":
            found |= {"label": "kd", "key": cell.key, "settings": cell.identity}
            found["scores"]["test_top1"] -= 1
            found["profile"]["file"]["ort_ms_b1"] *= 0.9
        records.append(found)
    [lines] = make_board("grid", with_starts(cells), records).compression.values()
    by = {line.row.label: line for line in lines}
    assert by["kd"].row.latency == by["student"].row.latency
    assert by["student"].fronts
    assert not by["kd"].fronts


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert undominated([(1, 5), (2, 4), (2, 6), (3, 6), (float("nan"), 9), (0.5, 1)]) == {0, 2, 5}
    assert undominated([]) == set()


def test_every_rendering_has_it(board: Board) -> None:
    text = markdown(board)
    assert "## What to ship: digits" in text
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("|")]
    [line] = [cells for cells in lines if cells[1:3] == ["cifar_resnet20", "int8"]]
    for shown in ("110.0", "3.64x", "2.00x", "-0.43 [-0.72, -0.15]", "size, latency"):
        assert shown in line
    page = html(board)
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    points = {(point["student"], point["objective"]): point for point in data["compression"]["digits"]}
    assert points["cifar_resnet20", "int8"]["size"] == pytest.approx(110)
    assert points["cifar_resnet20", "int8"]["front"] == ["size", "latency"]


def test_plots_of_the_fronts(board: Board, tmp_path: Path) -> None:
    from kdbench.report.plots import write_plots

    names = {path.name for path in write_plots(board, tmp_path / "plots")}
    assert {"compression-digits.png", "compression-digits.svg"} <= names


def test_a_board_without_files_has_no_such_table(tmp_path: Path) -> None:
    _, cells = grid(tmp_path)
    plain = make_board("grid", cells, [record(cell, 70.0) for cell in cells])
    assert plain.compression == {}
    assert "What to ship" not in markdown(plain)
    assert '"compression":' not in html(plain)


@pytest.mark.parametrize(
    ("limits", "ships"),
    [
        ({}, "Ship cifar_resnet20 trained plainly, without a teacher: 71.00%"),
        ({"max_bytes": 200e3}, "Ship cifar_resnet20 trained with int8: 70.57%"),
        ({"max_latency_ms": 1.2}, "Ship cifar_resnet20 trained with int8"),
        ({"max_params": 30e3, "max_latency_ms": 0.5}, "no student is within the limits"),
    ],
)
def test_recommend_keeps_to_limits_of_the_file(tmp_path: Path, limits: dict[str, float], ships: str) -> None:
    path, cells = suite(tmp_path)
    records = Records(tmp_path / "results", "grid")
    for cell in cells:
        records.write(made(cell))
    text = recommendation(path, Options(results=tmp_path / "results"), **limits)
    assert ships in text
    assert "in ONNX Runtime" in text


def test_recommend_says_what_was_not_measured_and_what_is_nearest(tmp_path: Path) -> None:
    path, cells = suite(tmp_path)
    records = Records(tmp_path / "results", "grid")
    for cell in cells:
        records.write(made(cell) if cell.then else made(cell) | {"profile": {"student": {"params": 1e5}}})
    options = Options(results=tmp_path / "results")
    assert "The smallest, cifar_resnet20 (int8), takes" in recommendation(path, options, max_bytes=1.0)
    for cell in cells:
        records.write(made(cell) | {"profile": {"student": {"params": 1e5}}})
    text = recommendation(path, options, max_bytes=1e9)
    assert "No file was measured: only suites with `transforms`" in text
    assert "fastest" not in text


def test_recommend_chooses_by_what_is_delivered_and_not_by_the_best_epoch(tmp_path: Path) -> None:
    """One student and its file, of one score after the last epoch; the student had a lucky epoch before."""
    path, cells = suite(tmp_path)
    records = Records(tmp_path / "results", "grid")
    for cell in cells:
        found = made(cell)
        last = 60.0 if cell.then else 58.0 if not cell.student.transforms else 10.0
        found["scores"]["validation_top1"] = last if cell.then else 70.0
        found["curves"] = {} if cell.then else {"validation_top1": [70.0, last]}
        records.write(found)
    assert "trained with int8" in recommendation(path, Options(results=tmp_path / "results"))


def test_a_student_that_begins_with_a_taught_one_is_not_called_plain(tmp_path: Path) -> None:
    student = {"model": "cifar_resnet20", "from": {"label": "kd"}, "transforms": [{"prune": {"share": 0.5}}]}
    rows = {"student": {"ce": 1}, "kd": {"kd": 1.0}}
    path, cells = grid(tmp_path, pairs=[PAIRS[0], TEACHER | {"student": student}], seeds=3, methods=rows)
    records = Records(tmp_path / "results", "grid")
    for cell in cells:
        records.write(record(cell, 90.0 if cell.student.transforms and cell.label == "student" else 50.0))
    text = recommendation(path, Options(results=tmp_path / "results"))
    assert "trained on labels, from the student of kd, which had a teacher" in text
    assert "without a teacher" not in text
    board = make_board("grid", cells, list(records.read_many(c.key for c in cells).values()))
    assert "Students begin with the student of kd, which had a teacher" in markdown(board)

"""The same records give the same leaderboards as before.

`unchanged/` holds records of three suites and what was written from them before there was a `Board` (commit 850884d):
`quickstart` (real records; a row with a diverged, one with a failed cell, some missing, a commit with changes),
`all-methods` (real records of two pairs, with skipped cells) and `literature` (made-up scores beside published ones;
written again since for one more column, the published teacher). That the `Board` changed no character was shown by them
up to commit 44f27ac; since then verdicts and sentences changed on purpose, and `git log` of the folder tells each time.

After a change that is meant: `python tests/report/test_unchanged.py` writes them again, and `git diff` shows it.
"""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from kdbench.report.table import Board, make_board
from kdbench.report.write import write_board
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods

BEFORE = Path(__file__).parent / "unchanged"
OPTIONS: dict[str, dict[str, Any]] = {
    "quickstart": {"reference": "dkd"},
    "all-methods": {},
    "literature": {"published": True},
}


def cells_and_records(name: str) -> tuple[list[Cell], list[Record]]:
    """Cells have the keys they had then: what a key is made of may change, a table must not.

    `records.json` tells the key of a missing cell too.
    """
    records = json.loads((BEFORE / name / "records.json").read_text())
    keys = {place_of(record): record["key"] for record in records}
    cells = cells_of(load_suite(BEFORE / name / "suite.yaml"))
    for cell in cells:
        place = cell.dataset.name, cell.teacher.short, cell.student.short, cell.label, cell.seed
        cell.__dict__["key"] = keys[place]  # where `cached_property` keeps it
    return cells, [record for record in records if record["status"] != "missing"]


def place_of(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("dataset", "teacher", "student", "label", "seed"))


@pytest.fixture(scope="module", params=OPTIONS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders: what was written before, what is written now."""
    name, folder = request.param, tmp_path_factory.mktemp("board")
    write_board(make_board(name, *cells_and_records(name), **OPTIONS[name]), folder, plots=False)
    return BEFORE / name, folder


@pytest.mark.parametrize("name", ["leaderboard.md", "leaderboard.tex"])
def test_texts(written: tuple[Path, Path], name: str) -> None:
    before, now = ((folder / name).read_text() for folder in written)
    assert now.splitlines() == before.splitlines()
    assert now == before


@pytest.mark.parametrize("name", ["leaderboard.csv", "per_class.csv"])
def test_csv(written: tuple[Path, Path], name: str) -> None:
    if not (written[0] / name).is_file():
        assert not (written[1] / name).is_file()
        return
    before, now = ((folder / name).read_text() for folder in written)
    assert_alike(now, before)


def test_the_data_of_the_page(written: tuple[Path, Path]) -> None:
    assert_alike(page_data(written[1]), (written[0] / "page.json").read_text())


def page_data(folder: Path) -> str:
    data = re.search(r'id="data">(.*?)</script>', (folder / "leaderboard.html").read_text(), re.DOTALL)
    assert data is not None
    return data[1]


NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")


def assert_alike(now: str, before: str) -> None:
    """Numbers to 9 digits: the last ones are those of the processor and of scipy's version."""
    assert NUMBER.sub("#", now).splitlines() == NUMBER.sub("#", before).splitlines()
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (now, before))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_board_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From records to every file: what the board holds is not computed again by what is made of it."""
    calls: dict[str, int] = {}
    counted = ("with_missing", "pairs_of", "table_of", "ranking_of", "sources_of", "curves_of", "per_class",
               "class_words")  # fmt: skip
    for name in counted:
        monkeypatch.setattr(f"kdbench.report.table.{name}", count(calls, name))
    monkeypatch.setattr("kdbench.report.statistics.ranking", count(calls, "ranking", "statistics"))
    board = make_board("all-methods", *cells_and_records("all-methods"))
    assert board.ranking is not None
    write_board(board, tmp_path)
    assert (tmp_path / "plots" / "critical-difference.svg").is_file()
    assert "## Across pairs" in (tmp_path / "leaderboard.md").read_text()
    assert calls == {**dict.fromkeys(counted, 1), "ranking": 1}


def count(calls: dict[str, int], name: str, module: str = "table") -> Any:
    called = getattr(__import__(f"kdbench.report.{module}", fromlist=[name]), name)

    def counting(*given: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        return called(*given)

    return counting


def test_rows_have_types() -> None:
    board = make_board("quickstart", *cells_and_records("quickstart"), reference="dkd")
    rows = {row.label: row for row in board.pairs[0].rows}
    assert rows["student"].alone
    assert rows["student"].gain is None
    assert rows["dkd"].reference_gain is None
    assert rows["dkd"].gain is not None
    assert rows["rkd"].not_done == {"diverged": 1, "failed": 0, "skipped": 0, "missing": 0}
    assert rows["sp"].n == 1
    assert board.rows == board.pairs[0].rows
    assert_matches_the_table(board)


def assert_matches_the_table(board: Board) -> None:
    for row, line in zip(board.rows, board.table.to_dict("records"), strict=True):
        assert (row.label, row.n, row.score) == (line["objective"], line["n"], line[board.metric.test])
        if row.gain is not None:
            ours = (row.gain.mean, row.gain.p_corrected, row.gain.claim == 1)
            np.testing.assert_equal(
                ours, (line["gain"], line["gain_p_corrected"], line["gain_says"].startswith("better"))
            )


def write_again() -> None:
    load_methods()
    for name, options in OPTIONS.items():
        board = make_board(name, *cells_and_records(name), **options)
        with TemporaryDirectory() as folder:
            write_board(board, Path(folder), plots=False)
            for old in BEFORE.glob(f"{name}/*"):
                if (new := Path(folder) / old.name).is_file():
                    old.write_bytes(new.read_bytes())
            (BEFORE / name / "page.json").write_text(page_data(Path(folder)))


if __name__ == "__main__":
    write_again()

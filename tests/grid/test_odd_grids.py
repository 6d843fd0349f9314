"""Grids with anything in them: missing, failed, single, equal, absurd. Never a crash, never an average of failures."""

import json
import math
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from boards import write_leaderboard
from grids import grid, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.api import Options
from kdbench.commands.recommend import recommendation
from kdbench.errors import UserError
from kdbench.files import finite, write_json
from kdbench.results.merge import slim

STATUSES = ["done", "done", "done", "diverged", "failed", "skipped", "missing"]
SCORES = st.one_of(st.sampled_from([0.0, 70.0, 100.0]), st.floats(0, 100))
LOST = ["test_nll", "test_ece", "teacher_agreement", "teacher_top1", "test_top1_best"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return grid(tmp_path_factory.mktemp("odd"), ["student", "kd", "rkd"], pairs=2, seeds=3)[1]


@st.composite
def records_of(draw: st.DrawFn, cells: list[Any]) -> list[Any]:
    """A record, or none, for every cell; some without parts that older versions did not write."""
    found = []
    for cell in cells:
        status = draw(st.sampled_from(STATUSES))
        made = record(cell, draw(SCORES), status=status)
        if status != "done":
            made |= {
                "reason": draw(st.sampled_from(["", "a | b\n<i>", "no"])),
                "curves": {},
                "scores": {"test_top1": -1e6},
            }
        elif draw(st.booleans()):
            made["scores"][draw(st.sampled_from(LOST))] = draw(st.sampled_from([None, math.nan]))
            made |= draw(st.sampled_from([{"profile": {}}, {"cost": {}}, {"curves": {}}, {"versions": {}}, {}]))
            made |= {"test_top1_per_class": [draw(SCORES), None, 50.0], "num_classes": 3}
        found += [made] if status != "missing" else []
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_grid_is_too_odd(cells: list[Any], data: st.DataObject) -> None:
    records = data.draw(records_of(cells))
    with TemporaryDirectory() as folder:
        out = Path(folder)
        table, text = write_leaderboard(cells, [slim(made) for made in records], out, plots=False)
        page = json.loads(re.search(r'id="data">(.*?)</script>', (out / "leaderboard.html").read_text())[1])  # type: ignore[index]
        assert len(table) == 6
        assert sum(len(pair["rows"]) for pair in page["pairs"]) == 6
    for row in table.to_dict("records"):
        mine = [r for r in records if (r["student"], r["label"]) == (row["student"], row["objective"])]
        done = [r["scores"]["test_top1"] for r in mine if r["status"] == "done"]
        assert row["n"] == len(done)
        if done:
            assert row["test_top1"] == pytest.approx(sum(done) / len(done))
        if row["n"] < 2:
            assert math.isnan(row.get("gain_low", math.nan))
            assert math.isnan(row.get("gain_p_corrected", math.nan))
        for status in ("diverged", "failed", "skipped"):
            count = sum(r["status"] == status for r in mine)
            assert row[f"n_{status}"] == count
            assert not count or f"{row['objective']}: {count} of 3 cells {status}" in text
        assert row["n_missing"] == 3 - len(mine)
    assert "nan" not in text.replace("nance", "")
    assert "-1000000" not in text


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_advice_and_plots_on_odd_grids(cells: list[Any], data: st.DataObject, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("odd")
    path, _ = grid(folder, ["student", "kd", "rkd"], pairs=2, seeds=3)
    records = data.draw(records_of(cells))
    write_leaderboard(cells, records, folder / "out")
    for made in records:
        write_json(folder / "grid" / "records" / f"{made['key']}.json", finite(made))
    if not any(made["status"] == "done" for made in records):
        with pytest.raises(UserError, match="no cell is done"):
            recommendation(path, Options(results=folder))
        return
    text = recommendation(path, Options(results=folder))
    assert "Ship" in text
    assert "nan" not in text

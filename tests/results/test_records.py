"""Records are judged alike on every way in. What fails is told with its reason, counts nowhere and crashes nothing."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from grids import drawn, grid, record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kdbench
from kdbench.errors import UserError
from kdbench.report.table import make_board
from kdbench.report.write import write_board
from kdbench.results.records import Records
from kdbench.results.schema import Shape, judged
from kdbench.suite.cells import Cell, fingerprint

HUGE = 10**400


def in_place(record: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    """A copy with `value` at `place`, names joined by dots."""
    name, _, rest = place.partition(".")
    inner = record.get(name)
    return {**record, name: in_place(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


BAD: dict[str, tuple[str, Any]] = {
    "a huge score": ("scores.test_top1", HUGE),
    "a score of 150%": ("scores.test_top1", 150.0),
    "a score below 0": ("scores.test_top1", -5.0),
    "a best score of 1e308": ("scores.test_top1_best", 1e308),
    "a score as text": ("scores.test_top1", "70"),
    "no score": ("scores", {}),
    "a huge loss": ("scores.test_nll", HUGE),
    "a name with a formula": ("scores", {"test_top1": 70.0, "=1+1": 1.0}),
    "a huge cost": ("cost.step_ms", HUGE),
    "a file that is text": ("delivered", "x"),
    "inputs that are no table": ("inputs", "x"),
    "inputs without shapes": ("inputs", {"about": "", "fields": [{"name": "images"}]}),
    "a huge curve": ("curves.test_top1", [HUGE]),
    "a curve above 100%": ("curves.test_top1", [1e30]),
    "text in a curve": ("curves.test_top1", ["a"]),
    "text as a size": ("profile.student.params", "many"),
    "a time as text": ("profile.student.cpu_ms_b1", "1.0"),
    "a commit that is a table": ("versions.commit", {}),
    "threads as text": ("versions.threads", "2"),
    "text by class": ("test_top1_per_class", ["a"]),
    "a number by class": ("test_top1_per_class", 5),
    "a table by class": ("test_top1_per_class", {}),
    "classes that are a number": ("classes", 7),
    "another number of classes": ("test_top1_per_class", [1.0, 2.0, 3.0]),
    "a status of its own": ("status", "won"),
    "a seed below 0": ("seed", -1),
    "a key that is a list": ("key", []),
    "no settings": ("settings", None),
    "settings of another objective": ("settings.objective", {"ce": {"weight": 2.0, "standardise": "none"}}),
    "settings of another format": ("settings.format", 1),
    "made before the data were known": ("settings.data", "not there"),
}


def bad(cell: Cell, place: str, value: Any) -> dict[str, Any]:
    made = in_place({**record(cell, 70.0), "num_classes": 2}, place, value)
    if value == "not there":
        made["key"] = fingerprint(made["settings"])
    return made


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Cell]]:
    """A suite of two rows and three seeds."""
    return grid(tmp_path_factory.mktemp("one"), ["student", "kd"])


@pytest.mark.parametrize(("place", "value"), BAD.values(), ids=BAD)
def test_what_is_no_record(one: tuple[Path, list[Cell]], place: str, value: Any) -> None:
    made = bad(one[1][0], place, value)
    with pytest.raises(UserError) as error:
        judged(json.dumps(made).encode())
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("text", ["", "null", "[]", "5", "{", "NaN", '{"key": "\\ud800"}', "[" * 100_000])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(UserError, match=r"is no record|can't be read"):
        judged(text.encode())


def test_not_finite(one: tuple[Path, list[Cell]]) -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UserError):
            judged(json.dumps(bad(one[1][0], "scores.test_nll", value)).encode())


def test_what_is_one(one: tuple[Path, list[Cell]]) -> None:
    cell = one[1][0]
    made = {**record(cell, 70.0), "num_classes": 2, "test_top1_per_class": [100.0, None], "classes": ["a", "ü"]}
    assert judged(json.dumps(made).encode(), cell.key)["scores"] == made["scores"]
    diverged = {**record(cell, 70.0), "status": "diverged", "scores": {}, "curves": {"loss/total": [3e38, None]}}
    assert judged(json.dumps(diverged).encode())["status"] == "diverged"


def fill(results: Path, records: list[dict[str, Any]], names: list[str] | None = None) -> Path:
    place = Records(results, "grid").folder
    place.mkdir(parents=True, exist_ok=True)
    for number, made in enumerate(records):
        (place / f"{names[number] if names else made['key']}.json").write_text(json.dumps(made), encoding="utf-8")
    return results


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.report.plots.write_plots", lambda *a: [])


def test_bad_records_count_nowhere(one: tuple[Path, list[Cell]], tmp_path: Path) -> None:
    """The table is that of the good records alone; Markdown and page say what is wrong with the others."""
    suite, cells = one
    good = drawn(cells, {"kd": 1.0})
    expected = kdbench.leaderboard(suite, results=fill(tmp_path / "good", good[1:]))
    made = bad(cells[0], "scores.test_top1", 150.0)
    table = kdbench.leaderboard(suite, results=fill(tmp_path / "bad", [made, *good[1:]]))
    pd.testing.assert_frame_equal(table, expected)
    text = (tmp_path / "bad" / "grid" / "leaderboard.md").read_text(encoding="utf-8")
    assert "1 records are not counted" in text
    assert "has test_top1 = 150, which is no percentage" in text
    assert "which is no percentage" in (tmp_path / "bad" / "grid" / "leaderboard.html").read_text(encoding="utf-8")


def test_bad_records_of_others(one: tuple[Path, list[Cell]], tmp_path: Path) -> None:
    suite, cells = one
    theirs = fill(tmp_path / "theirs", [bad(cell, "scores.test_top1", 150.0) for cell in cells])
    with pytest.raises(UserError, match=r"(?s)no record of suite 'grid'.*has test_top1 = 150"):
        kdbench.leaderboard(suite, results=tmp_path, also=[theirs])
    fill(theirs, drawn(cells, {})[1:])
    assert kdbench.leaderboard(suite, results=tmp_path, also=[theirs])["n"].sum() == len(cells) - 1


def test_bad_records_from_mlflow(one: tuple[Path, list[Cell]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, cells = one
    good = [json.dumps(made).encode() for made in drawn(cells, {})]
    runs = [*good[1:], *(json.dumps(bad(cells[0], *change)).encode() for change in BAD.values()), b"null", b"[]", b"7"]
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda tracking_uri: None))  # it is slow
    monkeypatch.setattr("kdbench.results.merge.completed_runs", lambda client, suite: [*map(str, range(len(runs)))])
    monkeypatch.setattr("kdbench.results.merge.download_record", lambda client, run, folder: runs[int(run)])
    table = kdbench.leaderboard(suite, results=tmp_path, mlflow=f"sqlite:///{tmp_path}/m.db")
    assert table["n"].sum() == len(cells) - 1
    assert f"{len(BAD) + 3} records are not counted" in (tmp_path / "grid" / "leaderboard.md").read_text("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=10), part, max_size=3),
    max_leaves=6,
)


@given(value=JSON, name=st.sampled_from([*Shape.__annotations__]), inner=st.sampled_from(["", "test_top1", "student"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_as_a_record(one: tuple[Path, list[Cell]], tmp_path: Path, value: Any, name: str, inner: str) -> None:
    """It is refused in a line, or every table and file can be made of it."""
    cells = one[1]
    content = json.dumps(in_place(record(cells[0], 70.0), f"{name}.{inner}" if inner else name, value)).encode()
    try:
        made = judged(content, cells[0].key)
    except UserError:
        return
    others = drawn(cells, {})[1:]
    board = make_board("grid", cells, [made, *others])
    write_board(board, tmp_path, plots=False, links={})


def test_data_that_are_not_there_any_more(suite_file: Callable[..., Path], tmp_path: Path, pictures: Path) -> None:
    """A table needs no pictures: which they were stands in the records."""
    suite = suite_file(datasets=[{"name": "folder", "path": "pics", "size": 8}], name="grid")
    data = pictures.parent
    from kdbench.suite.cells import cells_of
    from kdbench.suite.load import load_suite

    cells = cells_of(load_suite(suite), data_dir=data)
    results = tmp_path / "results"
    place = results / cells[0].suite / "records"
    place.mkdir(parents=True)
    for cell in cells:
        (place / f"{cell.key}.json").write_text(json.dumps(record(cell, 70.0)), encoding="utf-8")
    there = kdbench.leaderboard(suite, results=results, data=data)
    assert there["n"].tolist() == [1, 1]
    pd.testing.assert_frame_equal(kdbench.leaderboard(suite, results=results, data=tmp_path / "none"), there)
    (pictures / "train" / "a" / "more.png").write_bytes((pictures / "train" / "a" / "0.png").read_bytes())
    with pytest.raises(UserError, match="none of them counts: since they were made, the data changed"):
        kdbench.leaderboard(suite, results=results, data=data)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    from PIL import Image

    root = tmp_path / "data" / "pics"
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (1, 2, 3)).save(root / part / name / "0.png")
    return root


def test_two_suites_of_one_name_are_told(
    suite_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = suite_file("first.yaml"), suite_file("second.yaml", seeds=[1])
    for path, told in ((first, False), (first, False), (second, True), (second, False), (first, True)):
        kdbench.leaderboard(path, results=tmp_path / "results")
        assert ("is called 'tiny' too" in capsys.readouterr().err) == told, path
    second.rename(tmp_path / "moved.yaml")
    kdbench.leaderboard(tmp_path / "moved.yaml", results=tmp_path / "results")
    (tmp_path / "moved.yaml").rename(tmp_path / "again.yaml")  # a suite that was moved is no second one
    capsys.readouterr()
    kdbench.leaderboard(tmp_path / "again.yaml", results=tmp_path / "results")
    assert "too" not in capsys.readouterr().err

"""Whatever a suite or a record holds: `plan`, `run` and `leaderboard` end with a code that the README names."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import TINY
from grids import record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from kdbench.plain import inert
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "scores",
    "settings",
    "profile",
    "seed",
    "status",
    "label",
    "curves",
    "versions",
    "classes",
    "cost",
    "outcomes",
]
COMMANDS = (("plan",), ("run", "--only", "none"), ("leaderboard",))
LETTERS = st.characters(exclude_characters="/\0", exclude_categories=["Cs"])  # a name of a folder
FOLDER = st.text(LETTERS, min_size=1, max_size=20).filter(lambda name: not name.startswith("."))


@pytest.fixture
def through(kdbench, tmp_path):
    """`through(suite)`: every command's exit code and output; none raises."""

    def call(suite, *more):
        found = []
        for command, *words in COMMANDS:
            code, out, err = kdbench(command, suite, *words, *more)
            assert code in (0, 1, 2), (command, out, err)
            assert "Traceback" not in out + err
            assert code != 2 or err.strip(), command
            found.append((code, out, err))
        return found

    return call


@FEW
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_as_a_suite(through, tmp_path, content):
    path = tmp_path / "suite.yaml"
    path.write_bytes(content)
    assert {code for code, *_ in through(path)} == {2}


@FEW
@given(label=st.text(min_size=1, max_size=20))
def test_any_text_as_a_label(through, tmp_path, label):
    path = tmp_path / "suite.yaml"
    suite = {**TINY, "methods": {"student": {"ce": 1}, label: {"kd": 1}}}
    path.write_text(yaml.safe_dump(suite, sort_keys=False, allow_unicode=True), encoding="utf-8")
    plan, run, board = through(path)
    assert run[0] == 2  # refused, or no cell matches
    assert (plan[0] == board[0] == 0) or (plan[2] == board[2] and str(path) in plan[2])
    if board[0] == 0:
        assert inert(label) in (tmp_path / "results" / "tiny" / "leaderboard.md").read_text(encoding="utf-8")


@FEW
@given(names=st.lists(FOLDER, min_size=2, max_size=2, unique_by=str.casefold))
def test_any_text_as_the_name_of_a_class(through, suite_file, tmp_path, names):
    data = tmp_path / "data"
    shutil.rmtree(data, ignore_errors=True)
    try:
        for part in ("train", "val"):
            for name in names:
                (data / "pics" / part / name).mkdir(parents=True)
                Image.new("RGB", (8, 8)).save(data / "pics" / part / name / "a.png")
    except OSError:  # too long in bytes
        return
    suite = suite_file(datasets=[{"name": "folder", "path": "pics", "size": 8}])
    plan, run, board = through(suite, "--data", data)
    assert (plan[0], run[0], board[0]) == (0, 2, 0)


@FEW
@given(value=JSON, name=st.sampled_from(NAMES), whole=st.booleans())
def test_any_json_as_a_record(through, suite_file, tmp_path, value, name, whole):
    suite = suite_file()
    [first, second] = cells_of(load_suite(suite))
    place = tmp_path / "results" / "tiny" / "records"
    place.mkdir(parents=True, exist_ok=True)
    made = value if whole else {**record(first, 70.0), name: value}
    Path(place / f"{first.key}.json").write_text(json.dumps(made), encoding="utf-8")
    Path(place / f"{second.key}.json").write_text(json.dumps(record(second, 71.0)), encoding="utf-8")
    plan, run, board = through(suite)
    assert (plan[0], run[0], board[0]) == (0, 2, 0)

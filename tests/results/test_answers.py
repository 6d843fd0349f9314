"""What many records say alike stands once beside them, and every reader finds the same record again."""

import json
import zlib
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
from grids import grid, record

from kdbench.layout import Layout
from kdbench.results.answers import whole_bytes
from kdbench.results.clean import clean, share
from kdbench.results.outcomes import Outcomes, packed, unpacked
from kdbench.results.records import Records
from kdbench.results.seal import is_intact, sealed
from kdbench.results.store import Store

SUITE, NUM = "grid", 2000


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A suite of eight records whose test's targets and teacher's answers are the same."""
    cells = grid(tmp_path, ["student", "kd"], seeds=4)[1]
    draw = np.random.default_rng(0)
    target, teacher = draw.integers(0, 10, NUM), draw.integers(0, 10, NUM)
    records = Records(tmp_path, SUITE)
    for cell in cells:
        outcomes = packed(Outcomes(draw.integers(0, 10, NUM), teacher, target), 10)
        records.write(sealed(record(cell, 10.0, outcomes=outcomes)))
    return tmp_path


def test_records_are_smaller_and_say_the_same(results: Path) -> None:
    folder, store = Layout(results).suite(SUITE), Records(results, SUITE)
    files = {path: path.read_bytes() for path in sorted(folder.records.glob("*.json"))}
    before = store.read_all()
    said = share(results, SUITE)
    assert "8 records" in said
    assert "MiB less" in said
    answers = folder.all_answers()
    assert len(answers) == 2, "targets and the teacher's"
    assert all(path.stat().st_size < len(files[path]) - 2000 for path in files)
    assert store.read_all() == before
    assert all(map(is_intact, before))
    assert {path: whole_bytes(path) for path in files} == files, "to the byte, for an archive"

    shared = {path: path.read_bytes() for path in files}
    assert "0.0 MiB less" in share(results, SUITE), "once more changes nothing"
    assert {path: path.read_bytes() for path in files} == shared
    assert "answers that no record" not in clean(results, False)
    sent = [path for path in Layout(results).finished() if path.suffix in (".txt", ".json")]
    assert sent[: len(answers)] == answers, "before the records"


def test_what_is_not_there_is_told_by_the_seal(results: Path) -> None:
    share(results, SUITE)
    folder = Layout(results).suite(SUITE)
    for path in folder.all_answers():
        path.unlink()
    for found in Records(results, SUITE).read_all():
        assert found["scores"]["test_top1"] == 10.0, "its score is known all the same"
        assert unpacked(found["outcomes"]) is None
        assert is_intact(found) is False


def test_a_changed_answer_breaks_every_seal(results: Path) -> None:
    share(results, SUITE)
    path = Layout(results).suite(SUITE).all_answers()[0]
    path.write_text(path.read_text()[:-8] + "AAAAAAA=")
    assert [is_intact(found) for found in Records(results, SUITE).read_all()] == [False] * 8


@pytest.mark.parametrize("name", ["../../../secret", "a" * 19, 5, None])
def test_a_record_from_elsewhere_names_no_other_file(results: Path, name: object) -> None:
    (results / "secret.txt").write_text("secret")
    path = next(Layout(results).suite(SUITE).records.glob("*.json"))
    found = json.loads(path.read_bytes())
    found["outcomes"]["target"] = {"answers": name}
    path.write_text(json.dumps(found))
    read = Records(results, SUITE).read(path.stem)
    assert read
    assert read["outcomes"]["target"] == {"answers": name}


def test_answers_that_no_record_needs_can_go(results: Path) -> None:
    share(results, SUITE)
    folder = Layout(results).suite(SUITE)
    folder.answers("0" * 20).write_text("x")
    assert f"{'0' * 20}.txt  (answers that no record refers to)" in clean(results, True)
    assert len(folder.all_answers()) == 2


def test_a_store_keeps_them_too(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share(results, SUITE)
    monkeypatch.setenv("KDBENCH_CACHE", str(results / "cache"))
    store = Store(f"file://{results}")
    store.fetch()
    there = Records(store.local, SUITE).read_all()
    assert there == Records(results, SUITE).read_all()
    assert all(map(is_intact, there))


def test_outcomes_of_an_older_version_are_read() -> None:
    """They were relative to what the student predicted."""
    rng = np.random.default_rng(1)
    outcomes = Outcomes(*(rng.integers(0, 7, 50) for _ in range(3)))

    def text(part: np.ndarray) -> str:
        return b64encode(zlib.compress(part.astype(np.uint8).tobytes())).decode()

    old = {
        **{"num_classes": 7, "bytes": 1, "predicted": text(outcomes.predicted)},
        "teacher": text((outcomes.teacher - outcomes.predicted) % 7),
        "target": text((outcomes.target - outcomes.predicted) % 7),
    }
    found = unpacked(old)
    assert found is not None
    for name in ("predicted", "teacher", "target"):
        np.testing.assert_array_equal(getattr(found, name), getattr(outcomes, name))

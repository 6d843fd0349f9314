"""Records that count no more are spoken of, and the tables made of them are not replaced by empty ones."""

from jpegs import folder_of_jpegs

from kdbench.api import choose_device
from kdbench.report.meaning import from_files

METHODS = {"student": {"ce": 1}, "kd": {"kd": 1}}


def test_a_folder_that_changed_is_said_by_every_command(kdbench, suite_file, tmp_path):
    data = {"name": "folder", "path": str(folder_of_jpegs(tmp_path / "p", 24, 12, 3, (40, 60))), "size": 32}
    suite = suite_file(datasets=[data], validation=0, methods=METHODS)
    assert kdbench("run", suite)[0] == 0
    table = tmp_path / "results" / "tiny" / "leaderboard.md"
    before = table.read_text()
    next((tmp_path / "p" / "val").rglob("*.*")).unlink()
    told = (
        f"2 records lie in {table.parent / 'records'}, and none of them counts: since they were made, the data changed"
    )
    for command in ("plan", "leaderboard", "recommend"):
        code, out, err = kdbench(command, suite)
        assert code == (0 if command == "plan" else 2), (command, out, err)
        assert told in " ".join((out + err).split()), command
        assert table.read_text() == before
    suite_file(datasets=[data], validation=0, methods=METHODS, train={"epochs": 2, "batch_size": 16})
    said = " ".join(kdbench("plan", suite)[1].split())
    assert "and none of them counts" in said
    assert all(part in said for part in ("the data", "how students are trained"))
    suite = suite_file(datasets=[data], validation=0, methods=METHODS)
    code, out, err = kdbench("run", suite)
    assert code == 0
    assert told in " ".join((out + err).split())
    assert "none of them counts" not in kdbench("plan", suite)[1]


def test_names_are_found_whatever_their_case(kdbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean quickstart?" in kdbench("plan", "QUICKSTART")[2]
    (tmp_path / "mine.yaml").write_text("extends: quickstart\nname: mine\n")
    assert "did you mean mine.yaml?" in kdbench("plan", "somewhere/MINE.yaml")[2]
    (tmp_path / "photos").mkdir()
    code, _, err = kdbench("plan", "photos")
    assert code == 2
    assert "photos is a folder; of one with pictures `kdbench init photos` makes a suite" in err
    assert choose_device("CPU").type == "cpu"


def test_weights_that_students_begin_with_are_told():
    assert from_files({"model": "x", "checkpoint": "abcdef0123456", "head": "new"}) == (
        "the weights of a file (its SHA-256 begins with abcdef01) and a new head"
    )
    assert from_files({"model": "x", "pretrained": True}) == "pretrained weights"
    assert not from_files({"model": "x", "pretrained": False})
    assert not from_files(None)

"""Records that count no more are spoken of, and the tables made of them are not replaced by empty ones."""

from jpegs import folder_of_jpegs

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

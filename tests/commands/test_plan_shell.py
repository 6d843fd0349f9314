"""`kdbench plan --shell`: a command for each cohort; together they do what one run does."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_each_line_trains_one_cohort(suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path) -> None:
    suite = suite_file(seeds=[0, 1])
    code, out, err = kdbench("plan", suite, "--shell")
    assert code == 0, err
    lines = [shlex.split(line) for line in out.splitlines()]
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        assert line[:2] == ["kdbench", "run"]
        assert kdbench(*line[1:])[0] == 0
        found = [json.loads(path.read_text()) for path in (tmp_path / "results" / "tiny" / "records").glob("*.json")]
        assert len(found) == 2 * number
        assert len({record["seed"] for record in found}) == number
    assert kdbench("plan", suite, "--shell")[1].strip() == ""


def test_lines_train_no_more_than_was_asked(suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path) -> None:
    suite = suite_file()
    _, out, _ = kdbench("plan", suite, "--only", "kd", "--shell")
    [line] = [shlex.split(line) for line in out.splitlines()]
    assert kdbench(*line[1:])[0] == 0
    found = [json.loads(path.read_text()) for path in (tmp_path / "results" / "tiny" / "records").glob("*.json")]
    assert [record["label"] for record in found] == ["kd"]
    code, _, err = kdbench("plan", suite, "--only", "kd", "--only", "nothing")
    assert code == 2
    assert "no cell matches --only 'kd' and 'nothing'" in err

"""Commands that are asked for what is not there say so, and name what is near; a terminal's tables are never cut."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.markdown import Markdown

from kdbench.cli import main
from kdbench.commands.console import fitted

ROOT = Path(__file__).parents[2]
BOARD = (ROOT / "results/published-cifar100/leaderboard.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 80, 130, 200])
def test_no_number_is_cut(width):
    """Each number that is shown stands so in the file."""
    tables = "\n".join(line for line in BOARD.splitlines() if not line or line.startswith("|"))
    known, text = set(numbers(tables)), fitted(tables, width)
    assert ("Left out for the width of this terminal: " in text) == (width < 200)
    screen = Console(file=io.StringIO(), width=width)
    screen.print(Markdown(re.sub("Left out.*", "", text)))
    shown = screen.file.getvalue()
    assert len(set(numbers(shown))) > 50
    assert not set(numbers(shown)) - known
    assert max(map(len, shown.splitlines())) <= width


def numbers(text: str) -> list[str]:
    return re.findall(r"[-+\d.,]*\d[\w.,%/]*", text)


def test_what_is_not_there(kdbench, suite_file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words, said in (
        (["list", "methods", "fitnett"], "unknown method 'fitnett'; did you mean 'fitnet'?"),
        (["list", "methods", "zz*"], "no method matches 'zz*'"),
        (["list", "models", "cifar_resnet9"], "did you mean 'cifar_resnet"),
        (["list", "models", "zz*"], "no model matches 'zz*'"),
        (["list", "datasets", "cifar"], "unknown data set 'cifar'; did you mean 'cifar10'?"),
        (["list", "transforms", "prun"], "did you mean 'prune'?"),
        (["list", "suites", "quickstar"], "did you mean 'quickstart'?"),
        (["list", "recipes", "zz"], "unknown recipe 'zz'"),
        (["list", "suites", "--pair", "a", "b"], "list suites: --pair is of methods alone"),
        (["list", "models", "--size", "32"], "list models: --size is of methods alone"),
        (["list", "methods", "--classes", "3"], "give --pair TEACHER STUDENT, too"),
        (["leaderboard", suite_file(), "--reference", "studnt"], "unknown row 'studnt'; did you mean 'student'?"),
    ):
        code, _, err = kdbench(*words)
        assert (code, said in err) == (2, True), (words, err)


def test_numbers_out_of_range(kdbench):
    for words in (["ui", "--port", "99999"], ["ui", "--port", "-1"], ["profile", "cifar_resnet8", "--size", "0"],
                  ["profile", "cifar_resnet8", "--classes", "0"]):  # fmt: skip
        code, _, err = kdbench(*words)
        assert (code, words[-2] in err, "Traceback" in err) == (2, True, False), (words, err)


def test_a_device_that_is_not_there_is_said_first(suite_file, capsys):
    assert main(["plan", str(suite_file()), "--device", "gpux"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "did you mean 'gpu'?" in err


def test_results_that_cant_be_written(kdbench, suite_file):
    code, _, err = kdbench("run", suite_file(), results=Path("/proc/nowhere"))
    assert (code, "/proc/nowhere can't be made" in err) == (2, True)

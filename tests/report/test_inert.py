"""Text from outside (labels, class and file names, reasons) is shown as it stands, in every output."""

import csv as csv_reader
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from boards import write_leaderboard
from grids import ROWS, drawn, grid, record
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from kdbench.api import fenced
from kdbench.errors import UserError
from kdbench.grid.outcome import record_of
from kdbench.plain import harmless, inert
from kdbench.report.latex import escape
from kdbench.results.mlflow_runs import description
from kdbench.results.schema import MOST_REASON, Record, judged
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.train.objective import Objective
from kdbench.weights import read_weights

HOSTILE = [
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "![i](http://example.org/i.png)",
    "*a* **b** _c_ `d` ~~e~~",
    "=HYPERLINK(1)",
    "@SUM(1)",
    "+1",
    "-1",
    r"kd $\frac$ x",
    "kd $T$=4",
    r"\[x](y) \\* &lt; &#60;",
    "[x]: http://example.org",
    "日本 \u202e",
]
GITHUB = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def rendered(text: str) -> str:
    """What a reader of the Markdown sees; raises where it is more than plain text."""
    [_, inline, _] = GITHUB.parse(text)
    assert {child.type for child in inline.children or ()} <= {"text", "text_special"}, text
    return "".join(child.content for child in inline.children or ())


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown(text: str) -> None:
    assert rendered(f"row {inert(text)} row") == f"row {text} row".replace("\u202e", " ")


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_in_markdown(text: str) -> None:
    shown = inert(text)
    assert len(shown.splitlines()) <= 1
    assert "|" not in re.sub(r"\\[\\|]", "", shown)
    assert rendered(f"a{shown}a").split() == f"a{''.join(c if c.isprintable() else ' ' for c in text)}a".split()


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Cell], list[Record]]:
    """A grid whose labels, reasons, versions and classes are hostile."""
    labels = [label for label in HOSTILE if label.isprintable()]
    for number, label in enumerate(labels):
        monkeypatch.setitem(ROWS, label, {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 2.0 + number}})
    _, cells = grid(tmp_path, ["student", *labels], pairs=2)
    records = drawn(cells, dict.fromkeys(labels, 3.0))
    for number, made in enumerate(records):
        made["versions"] = {**made["versions"], "commit": f"<b>{number % 2}</b>|x", "torch": "[2](javascript:x)"}
        made |= {"num_classes": 2, "classes": ["=cat", "<i>"], "test_top1_per_class": [50.0 + number, 60.0]}
        if made["label"] in ("+1", "=HYPERLINK(1)"):  # not ranked then
            made |= {"status": "failed", "scores": {}, "reason": "a|b\n# <h1>c</h1> [d](javascript:e)"}
    return cells, records


def test_the_whole_leaderboard(hostile: tuple[list[Cell], list[Record]], tmp_path: Path) -> None:
    table, text = write_leaderboard(*hostile, tmp_path)
    assert len(table) == 2 * len({cell.label for cell in hostile[0]})
    html = GITHUB.render(text)
    assert not re.search(r"<(script|a|img|h1|i|b)\b(?!lock)", html.replace("<h1>Leaderboard", ""))
    assert (tmp_path / "plots" / "critical-difference.svg").is_file()
    svg = (tmp_path / "plots" / "critical-difference.svg").read_text(encoding="utf-8")
    assert "kd $T$=4" in svg
    for name in ("leaderboard.csv", "cells.csv", "per_class.csv"):
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            for row in csv_reader.reader(file):
                assert not [cell for cell in row if cell[:1] in "=+@-" and cell and not is_number(cell)]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_latex() -> None:
    assert escape("a\nb%\\c") == r"a b\%\textbackslash{}c"


def test_what_mlflow_shows(hostile: tuple[list[Cell], list[Record]]) -> None:
    failed = next(made for made in hostile[1] if made["status"] == "failed")
    rendered(description(failed))
    assert GITHUB.render(fenced("a: 1\n```\n<b>\n````\n")).count("<pre>") == 1
    assert "<b>" not in GITHUB.render(fenced("a: 1\n```\n<b>\n````\n"))


LABELS = st.text(min_size=1, max_size=30)


@example(label="\x850", classes=["", ""])
@given(label=LABELS, classes=st.lists(st.text(max_size=10), min_size=2, max_size=2))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_a_label(tmp_path: Path, label: str, classes: list[str]) -> None:
    """A suite with it is refused in words, or every output can be made of it."""
    pair = {"teacher": "cifar_resnet14", "student": "cifar_resnet8"}
    rows = {"student": {"ce": 1}, label: {"kd": 1}}
    suite = {"name": "grid", "datasets": ["digits"], "pairs": [pair], "methods": rows, "seeds": [0, 1]}
    path = tmp_path / "grid.yaml"
    text = yaml.safe_dump({**suite, "train": {"epochs": 3}}, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    try:
        cells = cells_of(load_suite(path, models=False))
    except UserError:
        return
    more: dict[str, Any] = {"num_classes": 2, "classes": classes, "test_top1_per_class": [1.0, 2.0]}
    records = [judged(json.dumps(record(cell, 70.0 + cell.seed, **more)).encode()) for cell in cells]
    _, shown = write_leaderboard(cells, records, tmp_path, plots=False)
    assert f"| {inert(label).strip()} " in shown  # a table's cells begin and end with no space


@given(st.binary(max_size=200) | st.text(alphabet="{}[]:-&*!|>'\"%@` abc\n\t0", max_size=100).map(str.encode))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_suite(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError):
        load_suite(path, models=False)


def test_a_label_with_lone_surrogates(tmp_path: Path, suite_file: Callable[..., Path]) -> None:
    path = suite_file()
    path.write_text(path.read_text("utf-8").replace("kd:\n", '"k\\uDCE9d":\n', 1), encoding="utf-8")
    with pytest.raises(UserError):
        load_suite(path, models=False)


@pytest.mark.parametrize("reason", ["x" * 200_000, "caf\udce9", "a\nb\tc\x1b[31m", ""])
def test_reasons_of_any_kind_can_be_written(tmp_path: Path, reason: str) -> None:
    _, [cell, *_] = grid(tmp_path, ["student"])
    made = record_of(cell, torch.device("cpu"), "failed", reason)
    assert len(made["reason"]) <= MOST_REASON
    assert made["reason"].isprintable()
    content = json.dumps(made, ensure_ascii=False).encode()
    assert judged(content)["reason"] == made["reason"]
    made["reason"] = reason.replace("\udce9", "é") * 30
    assert len(judged(json.dumps(made).encode())["reason"]) <= MOST_REASON


@given(st.text(st.characters(), max_size=400), st.integers(10, 300))
def test_harmless(text: str, most: int) -> None:
    shown = harmless(text, most)
    assert len(shown) <= most
    assert shown.isprintable()
    shown.encode()


def test_losses_of_one_name_have_curves_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, cells = grid(tmp_path, ["kd"])
    objective = Objective(cells[0].phases)
    for term in objective.terms():
        found = {name: torch.tensor(2.0) for name in ("ce", "total", term.name, "part")}
        monkeypatch.setattr(term, "losses", lambda *a, found=found: (1.0, found))

    class Out:
        logits = torch.zeros(1)

    out: Any = Out()
    names = set(objective(out, out, out)[2])
    assert names == {"ce", "ce.total", "part", "kd.ce", "kd.total", "kd", "kd.part"}


def test_no_advice_to_read_weights_unsafely(tmp_path: Path) -> None:
    path = tmp_path / "hostile.pth"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(UserError, match="never loaded") as error:
        read_weights(path)
    assert "weights_only" not in str(error.value)


LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_files_are_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "kd ü 日本", ROWS["kd"])
    path, cells = grid(tmp_path, ["student", "kd ü 日本"])
    place = tmp_path / "results" / "grid" / "records"
    place.mkdir(parents=True)
    for made in drawn(cells, {}):
        (place / f"{made['key']}.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    words = [sys.executable, "-m", "kdbench", "leaderboard", str(path), "--results", str(tmp_path / "results")]
    done = subprocess.run(words, env={**os.environ, **LOCALE}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "kd ü 日本" in (tmp_path / "results" / "grid" / "leaderboard.md").read_text(encoding="utf-8")
    assert b"kd \\xfc" in done.stdout


def test_commands_take_any_label_and_class(
    kdbench: Callable[..., Any], suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Through plan, run and leaderboard."""
    labels = [label for label in HOSTILE if label.isprintable() and "|" not in label]
    for part in ("train", "val"):
        for name in ("=cat", "<i>$x$", "日本\u202e\n"):
            (tmp_path / "data" / "pics" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / "pics" / part / name / "*[x](y).png")
    rows = {label: {"ce": 1, "kd": {"temperature": 2.0 + number}} for number, label in enumerate(labels)}
    suite = suite_file(datasets=[{"name": "folder", "path": "pics", "size": 8}], methods=rows)
    given = suite, "--data", tmp_path / "data"
    assert kdbench("plan", *given)[0] == 0
    code, _, err = kdbench("run", *given, "--only", "none")
    assert (code, "no cell matches" in err) == (2, True)
    code, out, _ = kdbench("leaderboard", *given)
    assert (code, "Traceback" in out) == (0, False)

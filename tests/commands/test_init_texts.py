"""From a table of texts to a suite: columns guessed, what is wrong with the texts told, a budget kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kdbench.commands.init_pictures import proposed_rows
from kdbench.commands.init_texts import NUMBER_ROWS, ROWS, STUDENTS, TEACHER
from kdbench.commands.inventory import model_given
from kdbench.errors import UserError
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite, objective
from kdbench.suite.plugins import load_methods
from kdbench.text.inspect import about, guessed, holds_texts, inspect, place_of

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]


def tables(root: Path, suffix: str = ".csv", **more: Any) -> Path:
    """Eighty reviews with a number, a title and a grade; ten of them stand in both parts."""
    root.mkdir(parents=True, exist_ok=True)
    rows = [{"id": k, "review": f"review {k} of the {'good' if k % 2 else 'bad'} kind, and some more words",
             "grade": "up" if k % 2 else "down"} for k in range(80)]  # fmt: skip
    for part, chosen in (("train", rows), ("test", rows[70:] + [{**rows[0], "review": "new"}])):
        frame = pd.DataFrame(chosen).assign(**more)
        frame.to_csv(root / f"{part}{suffix}", index=False, sep="," if suffix == ".csv" else "\t")
    return root


def test_a_table_is_looked_at(tmp_path: Path) -> None:
    found = inspect(tables(tmp_path / "reviews"))
    assert (found.columns.text, found.columns.label) == ("review", "grade")
    assert found.counts == {"down": (40, 6), "up": (40, 5)}
    assert (found.words, found.length, found.leaks, found.twice) == ((10, 10), 16, 10, 0)
    told = "\n".join(about(found))
    assert "2 classes, 80 texts to train on, 11 to test" in told
    assert "10 test texts stand in the training set word by word" in told


def test_which_column_is_which() -> None:
    rows = [{"text": f"{k}", "Label": k % 3, "long": "x" * 50} for k in range(12)]
    assert (guessed(rows, Path("t.csv")).text, guessed(rows, Path("t.csv")).label) == ("text", "Label")
    with pytest.raises(UserError, match=r"t\.csv: which column is the label\? none of id has few values"):
        guessed([{"id": k, "words": f"some words {k}"} for k in range(12)], Path("t.csv"))


def test_a_column_of_numbers_is_learnt_as_numbers(tmp_path: Path) -> None:
    for part, count in (("train", 60), ("val", 20)):
        rows = {"id": range(count), "text": [f"text {k}" for k in range(count)], "score": [k / 7 for k in range(count)]}
        pd.DataFrame(rows).to_csv(tmp_path / f"{part}.csv", index=False)
    found = inspect(tmp_path)
    assert (found.columns.label, found.columns.targets, found.counts) == ("score", "numbers", {})
    assert (found.num_train, found.num_test, found.can_hold_out) == (60, 20, False)
    told = "\n".join(about(found))
    assert "numbers to learn, 60 texts to train on, 20 to test" in told
    assert "numbers from 0 to 8.42857, mean 4.21, deviation 2.47" in told
    assert "per class" not in told


@pytest.mark.parametrize(
    ("column", "values", "targets"),
    [
        ("rating", [k % 5 + 1 for k in range(40)], None),  # a few ratings are classes, as before
        ("score", [k % 9 / 2 for k in range(40)], None),
        ("score", [k % 19 / 2 for k in range(40)], "numbers"),
        ("label", [k / 3 for k in range(40)], "numbers"),
        ("label", list(range(40)), None),  # whole: it could be names
        ("label", [f"{250 + k % 13}.{k % 13}" for k in range(40)], None),  # codes: too far from 0 to be learnt
        ("price", [250.5 + k for k in range(40)], "numbers"),  # too many for classes: what is wrong is told
    ],
)
def test_when_numbers_are_classes(column: str, values: list[Any], targets: str | None) -> None:
    rows = [{"text": f"some words {k}", column: value} for k, value in enumerate(values)]
    found = guessed(rows, Path("t.csv"))
    assert (found.label, found.targets) == (column, targets)


def test_what_is_a_folder_of_texts(tmp_path: Path) -> None:
    assert not holds_texts(tmp_path)
    assert holds_texts(tables(tmp_path / "a", ".tsv"))
    assert holds_texts(tmp_path / "a" / "train.tsv")
    assert place_of(tmp_path / "a" / "train.tsv") == tmp_path / "a"
    (tmp_path / "b" / "train" / "up").mkdir(parents=True)
    (tmp_path / "b" / "train" / "up" / "1.png").write_bytes(b"")
    assert not holds_texts(tmp_path / "b")
    (tmp_path / "b" / "train" / "up" / "LICENSE.txt").write_text("words")
    assert not holds_texts(tmp_path / "b")  # photographs and a note
    (tmp_path / "b" / "train.csv").write_text("file,label\n")
    assert not holds_texts(tmp_path / "b")
    (tmp_path / "b" / "train" / "up" / "1.txt").write_text("words")
    assert holds_texts(tmp_path / "b")
    (tmp_path / "all.csv").write_text("text,label\n")
    with pytest.raises(UserError, match=r"all\.csv: one table alone; split it into train\.csv and val\.csv"):
        place_of(tmp_path / "all.csv")


def test_what_is_proposed_is_a_suite(kdbench: Run, tmp_path: Path) -> None:
    root, suite = tables(tmp_path / "my reviews"), tmp_path / "mine.yaml"
    small = ("--teacher", "{model: bert, layers: 1, width: 8, heads: 2}", "--student", "{model: bilstm, width: 4}")
    code, out, err = kdbench("init", root, *small, "--budget", "20m", "--output", suite, "--results", tmp_path / "r")
    assert code == 0, err
    assert "texts are in the column 'review', labels in 'grade'" in err
    assert "minilm won't apply to bilstm(width=4)" in out
    assert f"kdbench run {suite}" in out
    made = load_suite(suite)
    assert made.name == "my-reviews"
    assert made.datasets[0].settings["text"] == "review"
    assert made.datasets[0].settings["length"] == 16
    assert {"student", "kd", "rkd"} <= set(made.objectives)
    assert len(cells_of(made)) == len(made.objectives) * 3
    code, _, err = kdbench("init", root, *small, "--output", suite)
    assert code == 2
    assert "is there already" in err


def test_the_defaults_are_nets_and_rows_that_are_there() -> None:
    assert [model_given(text).model for text in (TEACHER, *STUDENTS)] == ["bert", "bert", "bilstm"]
    for name in (ROWS, NUMBER_ROWS):
        rows = proposed_rows(name)
        assert [*rows][:2] == ["student", "kd"]
        assert all(objective(terms) for terms in rows.values())

"""What README and docs tell of published results stands in the committed tables, which `verify` computes anew."""

import re
from pathlib import Path

import pandas as pd
import pytest
from documents import README

ROOT = Path(__file__).parents[1]


def tables_of(suites: str) -> str:
    return "".join((ROOT / "results" / one / "leaderboard.md").read_text(encoding="utf-8") for one in suites.split())


def test_the_readmes_leaderboard_is_the_committed_one() -> None:
    shown = [
        line for line in README.split("## A real leaderboard")[1].split("\n## ")[0].splitlines() if line[:1] == "|"
    ]
    assert len(shown) > 10
    tables = tables_of("published-cifar100")
    assert [line for line in shown if line not in tables.splitlines()] == []
    [commit] = re.findall("`kdbench run published-cifar100` at commit ([0-9a-f]{12})", README)
    assert f"commit {commit};" in tables
    assert "made with kdbench run published-cifar100." in tables


@pytest.mark.parametrize(("place", "section", "suite"), [
    ("README.md", "## A real leaderboard", "published-cifar100"),
    ("docs/published-results.md", "", "published-cifar100"),
    ("docs/published-controls.md", "", "published-controls published-cifar100"),
    ("docs/published-fashion.md", "", "published-fashion"),
    ("docs/published-photos.md", "", "published-photos"),
    ("docs/published-compression.md", "", "published-compression"),
    ("docs/compression.md", "## A look", "published-compression"),
    ("docs/published-text.md", "", "published-text"),
    ("docs/texts.md", "# Texts", "published-text"),
])  # fmt: skip
def test_every_number_of_the_text_stands_in_the_tables(place: str, section: str, suite: str) -> None:
    text = (ROOT / place).read_text(encoding="utf-8")
    if section:
        text = text.split(f"{section}\n", 1)[1].split("\n## ")[0]
    told = re.findall(r"[+-]?\d+\.\d\d(?!\d)", text)
    assert len(told) > 10
    known = set(re.findall(r"[+-]?\d+\.\d\d(?!\d)", tables_of(suite)))
    assert [number for number in told if number not in known] == []


INTERVAL = re.compile(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\]")


@pytest.mark.parametrize(("page", "suites"), [
    ("results", "published-cifar100"), ("controls", "published-controls published-cifar100"),
    ("fashion", "published-fashion"), ("photos", "published-photos"), ("compression", "published-compression"),
    ("text", "published-text"),
])  # fmt: skip
def test_every_interval_of_the_text_stands_so_in_the_tables(page: str, suites: str) -> None:
    """A difference and both its ends together: three numbers of three places would be told otherwise."""
    text = " ".join((ROOT / f"docs/published-{page}.md").read_text(encoding="utf-8").split())
    told, known = INTERVAL.findall(text), tables_of(suites)
    assert len(told) > 2
    assert [interval for interval in told if interval not in known] == []


# Page, what stands before a list of rows, suite, student, column of leaderboard.csv, how its verdict begins
LISTS = [
    ("results", "Plain kd is not the best of them.** On the ResNet-8,", "cifar100", "resnet8", "reference", "better"),
    ("results", "are better than kd; on the transformer", "cifar100", "deit", "reference", "better"),
    ("results", "Worse than kd on the ResNet-8:", "cifar100", "resnet8", "reference", "worse"),
    ("results", "Not distinguishable from it:", "cifar100", "resnet8", "reference", "not"),
    ("results", "On the transformer worse:", "cifar100", "deit", "reference", "worse"),
    ("results", "not distinguishable:", "cifar100", "deit", "reference", "not"),
    ("fashion", "Better than kd** on the ResNet-8:", "fashion", "resnet8", "reference", "better"),
    ("fashion", "; on the transformer:", "fashion", "deit", "reference", "better"),
    ("fashion", "Worse on the ResNet-8:", "fashion", "resnet8", "reference", "worse"),
    ("fashion", "Not distinguishable:", "fashion", "resnet8", "reference", "not"),
    ("fashion", "Worse on the transformer:", "fashion", "deit", "reference", "worse"),
    ("fashion", "not distinguishable:", "fashion", "deit", "reference", "not"),
    ("photos", "Better than the transformer alone (10.85%):", "photos", "deit", "student", "better"),
    ("photos", "Better than the ResNet-8 alone (20.36%):", "photos", "resnet8", "student", "better"),
    ("photos", "Against kd**, on the transformer better:", "photos", "deit", "reference", "better"),
    ("photos", "On the ResNet-8 better:", "photos", "resnet8", "reference", "better"),
]


def rows_told(text: str, before: str) -> set[str]:
    """The rows in backticks that follow."""
    [_, after] = text.split(before)
    listed = re.match(r"(?:,? ?(?:and )?`[^`]*`)+", after)
    assert listed, after[:80]
    return set(re.findall("`([^`]*)`", listed[0]))


@pytest.mark.parametrize(("page", "before", "suite", "student", "against", "verdict"), LISTS)
def test_every_list_of_rows_is_the_tables(
    page: str, before: str, suite: str, student: str, against: str, verdict: str
) -> None:
    text = " ".join((ROOT / f"docs/published-{page}.md").read_text(encoding="utf-8").split())
    table = pd.read_csv(ROOT / f"results/published-{suite}/leaderboard.csv")
    own = table[table.student.str.contains(student)]
    says = own["gain_says" if against == "student" else "reference_gain_says"].astype(str)
    beside = {"student"} if against == "student" else {"student", "kd"}
    known = set(own.objective[says.str.startswith(verdict)]) - beside
    assert rows_told(text, before) == known


@pytest.mark.parametrize(("page", "suite", "pattern"), [
    ("results", "cifar100", r"Of (\d+) objectives with the trained teacher, (\d+) beat the ResNet-8"),
    ("results", "cifar100", r"and (\d+) of (\d+) the transformer alone"),
    ("fashion", "fashion", r"Of (\d+) objectives with the trained teacher, (\d+) beat the ResNet-8"),
    ("fashion", "fashion", r"mostly does not\*\*: (\d+) of (\d+) beat it alone"),
])  # fmt: skip
def test_how_many_rows_gain_is_counted(page: str, suite: str, pattern: str) -> None:
    text = " ".join((ROOT / f"docs/published-{page}.md").read_text(encoding="utf-8").split())
    [told] = re.findall(pattern, text)
    table = pd.read_csv(ROOT / f"results/published-{suite}/leaderboard.csv")
    taught = ~table.objective.isin(["student", "label_smoothing", "tfkd"]) & ~table.objective.str.contains("untrained")
    own = table[table.student.str.contains("resnet8" if "ResNet" in pattern else "deit") & taught & (table.n > 0)]
    better = int(own.gain_says.astype(str).str.startswith("better").sum())
    assert sorted(map(int, told)) == sorted([len(own), better])


MARKS = {"better": "▲", "worse": "▼"}


@pytest.mark.parametrize(("student", "before"), [("resnet8", "ResNet-8. *Choice"), ("deit", "The transformer (ofd")])
def test_the_table_of_controls_is_made_of_both_tables(student: str, before: str) -> None:
    """Row by row: the gain with the teacher and with an untrained one, each with its verdict, and what that leaves."""
    text = (ROOT / "docs/published-controls.md").read_text(encoding="utf-8").split(before)[1]
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "][1:]
    tables = {}
    for suite in ("cifar100", "controls"):
        table = pd.read_csv(ROOT / f"results/published-{suite}/leaderboard.csv")
        tables[suite] = table[table.student.str.contains(student) & (table.n > 0)].set_index("objective")
    ours, controls = tables["cifar100"], tables["controls"]
    rows = [row for row in ours.index if f"{row}, untrained teacher" in controls.index]
    shown = shown[: len(rows)]
    assert [row[0] for row in shown] == rows
    late = ours.test_top1_best - ours.test_top1  # how much more the best epoch on the test set gives than the last
    for name, taught, untaught, chosen, stands in shown:
        assert float(chosen) == round(late[name] - late["student"], 2)
        gain, control = ours.loc[name], controls.loc[f"{name}, untrained teacher"]
        assert taught == told_gain(gain)
        assert untaught == told_gain(control)
        left = "all of it" if untaught[-1] != "▲" else "part of it" if control.gain < gain.gain else "none of it"
        assert stands == (left if taught[-1] == "▲" else "no gain")


def told_gain(row: pd.Series) -> str:
    mark = MARKS.get(str(row.gain_says).split()[0], "≈")
    return f"{row.gain:+.2f} [{row.gain_low:+.2f}, {row.gain_high:+.2f}] {mark}"

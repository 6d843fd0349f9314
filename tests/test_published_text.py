"""What README and docs tell of published results stands in the committed tables, which `verify` computes anew."""

import re
from pathlib import Path

import pytest
from documents import README

ROOT = Path(__file__).parents[1]


def tables_of(suite: str) -> str:
    return (ROOT / "results" / suite / "leaderboard.md").read_text(encoding="utf-8")


def test_the_readmes_leaderboard_is_the_committed_one() -> None:
    shown = [
        line for line in README.split("## A real leaderboard")[1].split("\n## ")[0].splitlines() if line[:1] == "|"
    ]
    assert len(shown) > 10
    assert [line for line in shown if line not in tables_of("published-cifar100").splitlines()] == []


@pytest.mark.parametrize(("place", "section", "suite"), [
    ("README.md", "## A real leaderboard", "published-cifar100"),
    ("docs/published-results.md", "", "published-cifar100"),
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

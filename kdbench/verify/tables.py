"""Tables computed again from their records: do the files in the folder say the same?"""

import re
from itertools import zip_longest
from pathlib import Path

from kdbench.layout import SuiteFolder
from kdbench.report.table import Board
from kdbench.report.write import renderings

NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
LINK = re.compile(r'"([0-9a-f]{20})","([^"\\]*)"\]')  # the end of a cell in the page's data: key, address
CLOSE = 1e-9  # of itself: another version of a library may add in another order


def stale(board: Board, place: SuiteFolder) -> list[str]:
    """One line for every file that says something else than the records; plots and Parquet are not compared.

    A page links to the MLflow runs that were known when it was written, no result: it is computed with its own.
    """
    wrong = []
    for path, content in renderings(board, place, links_of(place.leaderboard("html"))).items():
        if not path.is_file():
            continue
        if line := first_difference(path.read_text(encoding="utf-8"), content):
            wrong.append(f"{path.name}:{line[0]} says {line[1]!r}, the records say {line[2]!r}")
    return wrong


def links_of(page: Path) -> dict[str, str]:
    """Key -> address of the MLflow run, as the page has them."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return dict(LINK.findall(text))


def first_difference(said: str, computed: str) -> tuple[int, str, str] | None:
    """Number of the first line that differs, with what is there and what should be from shortly before."""
    for number, (one, other) in enumerate(zip_longest(said.splitlines(), computed.splitlines(), fillvalue=""), 1):
        if one != other and not _alike(one, other):
            start = next(
                (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
            )
            start = max(0, start - 30)
            return number, one[start : start + 60], other[start : start + 60]
    return None


def _alike(one: str, other: str) -> bool:
    """Lines that differ in the last digits of long numbers alone."""
    if NUMBER.sub("", one) != NUMBER.sub("", other):
        return False
    ours, theirs = ([float(number) for number in NUMBER.findall(line)] for line in (one, other))
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and all(abs(a - b) <= CLOSE * max(abs(a), abs(b)) for a, b in pairs)

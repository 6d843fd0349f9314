"""Tables computed again from their records: do the files in the folder say the same?"""

import re
from itertools import zip_longest

from kdbench.layout import SuiteFolder
from kdbench.report.table import Board
from kdbench.report.write import renderings
from kdbench.results.mlflow_thread import addresses_of

NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
CLOSE = 1e-9  # of itself: another version of a library may add in another order


def stale(board: Board, place: SuiteFolder) -> list[str]:
    """One line for every file that says something else than the records; plots and Parquet are not compared."""
    wrong = []
    for path, content in renderings(board, place, addresses_of(place.path)).items():
        if not path.is_file():
            continue
        line = first_difference(path.read_text(encoding="utf-8"), content)
        bare = path == place.leaderboard("html") and line is not None  # perhaps made where no MLflow run was known
        if bare and first_difference(path.read_text(encoding="utf-8"), renderings(board, place, {})[path]) is None:
            continue
        if line is not None:
            wrong.append(f"{path.name}:{line[0]} says {line[1]!r}, the records say {line[2]!r}")
    return wrong


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
    pairs = zip(map(float, NUMBER.findall(one)), map(float, NUMBER.findall(other)), strict=True)
    return all(abs(a - b) <= CLOSE * max(abs(a), abs(b)) for a, b in pairs)

"""What many records of a suite say alike, once beside them: the test's targets, a teacher's answers to all of it.

A run writes records that are whole. `kdbench clean --share` takes those parts out, for results that are published;
whoever reads a record finds them in it again, to the letter.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kdbench.files import write_atomic, write_json
from kdbench.layout import SuiteFolder, suite_of_record
from kdbench.results.numbers import NUMBERS_OF
from kdbench.results.outcomes import MOST_BYTES, OUTCOMES
from kdbench.results.schema import Record

PARTS = ("teacher", "target")  # of a record's outcomes
SHORTEST = 200  # characters of what is worth a file
REFERENCE = "answers"  # {"answers": NAME} stands for the file's text
NAME = re.compile("[0-9a-f]{20}")


def make_whole(record: Record, folder: SuiteFolder) -> None:
    """Put what stands beside the record into it. What is not there is left out: then its outcomes are not known."""
    for outcomes in _outcomes(record):
        for part in PARTS:
            name = outcomes[part].get(REFERENCE) if isinstance(outcomes.get(part), dict) else None
            if isinstance(name, str) and NAME.fullmatch(name) and (path := folder.answers(name)).is_file():
                with path.open(encoding="ascii", errors="replace") as file:
                    outcomes[part] = file.read(MOST_BYTES)


def whole_bytes(path: Path) -> bytes:
    """The record's file as it is when nothing stands beside it. Raises OSError when there is none."""
    content = path.read_bytes()
    if f'"{REFERENCE}"'.encode() not in content:
        return content
    record = json.loads(content)
    make_whole(record, suite_of_record(path))
    return (json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def alike(records: Iterable[Record]) -> set[str]:
    """What two records or more say, by what their file would be called."""
    count = Counter(name_of(text) for record in records for _, _, text in _texts(record))
    return {name for name, times in count.items() if times > 1}


def take_out(path: Path, names: set[str]) -> int:
    """Write a record anew without what is in `names`, which stands beside it then; gives the bytes that it is less.

    Should the machine die meanwhile, both are there.
    """
    content, folder = path.read_bytes(), suite_of_record(path)
    record = json.loads(content)
    for outcomes, part, text in [*_texts(record)]:
        if (name := name_of(text)) in names:
            if not folder.answers(name).is_file():
                write_atomic(folder.answers(name), text.encode())
            outcomes[part] = {REFERENCE: name}
    write_json(path, record)
    return len(content) - path.stat().st_size


def name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def names_in(content: bytes) -> set[str]:
    """The names that a record's file refers to."""
    return {match.decode() for match in re.findall(rb'"answers": "([0-9a-f]{20})"', content)}


def _outcomes(record: Record) -> list[dict[str, Any]]:
    return [part for name in (OUTCOMES, NUMBERS_OF) if isinstance(part := record.get(name), dict)]


def _texts(record: Record) -> Iterator[tuple[dict[str, Any], str, str]]:
    for outcomes in _outcomes(record):
        for part in PARTS:
            if isinstance(text := outcomes.get(part), str) and len(text) >= SHORTEST:
                yield outcomes, part, text

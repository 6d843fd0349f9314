"""What a student made of each test example where it learns numbers, packed into its record: four bytes for each."""

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdbench.results.outcomes import MOST_BYTES, OUTCOMES, unpacked
from kdbench.results.schema import Record

NUMBERS_OF = "numbers"  # the entry of a record

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Numbers:
    """Numbers of every test example, [N], in the data set's order."""

    predicted: Floats  # by the student
    teacher: Floats  # by its teacher
    target: Floats


def packed_numbers(numbers: Numbers) -> dict[str, str]:
    """For a record's `numbers`: to the last bit."""
    return {name: _text(getattr(numbers, name)) for name in ("predicted", "teacher", "target")}


def unpacked_numbers(entry: dict[str, Any]) -> Numbers | None:
    """From a record's `numbers`; None where it is damaged."""
    try:
        found = Numbers(*(_floats(entry[name]) for name in ("predicted", "teacher", "target")))
    except (KeyError, TypeError, ValueError, zlib.error):
        return None
    return found if 0 < len(found.predicted) == len(found.teacher) == len(found.target) else None


def teacher_of(record: Record) -> NDArray[Any] | None:
    """What the teacher said of every test example [N], a class or a number; None where the record does not tell."""
    found = unpacked(record.get(OUTCOMES) or {}) or unpacked_numbers(record.get(NUMBERS_OF) or {})
    return None if found is None else found.teacher


def _text(numbers: Floats) -> str:
    return base64.b64encode(zlib.compress(numbers.astype("<f4").tobytes(), 9)).decode()


def _floats(text: str) -> Floats:
    found = zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES)
    return np.frombuffer(found, dtype="<f4").astype(np.float32)

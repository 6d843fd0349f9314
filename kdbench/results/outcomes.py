"""What a student made of each test example, packed into its record: a few bits for each."""

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

OUTCOMES = "outcomes"  # the entry of a record

MOST_BYTES = 2**26  # of one packed array: a record from elsewhere must not fill the memory

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Outcomes:
    """Classes of every test example, [N], in the data set's order."""

    predicted: Classes  # by the student
    teacher: Classes  # by its teacher
    target: Classes

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.target)


def packed(outcomes: Outcomes, num_classes: int) -> dict[str, Any]:
    """For a record's `outcomes`. Student's and teacher's are written as distances to the target: mostly zeros."""
    kind = np.dtype(np.uint8 if num_classes <= 256 else np.uint16 if num_classes <= 65536 else np.uint32)
    parts = {
        "predicted": (outcomes.predicted - outcomes.target) % num_classes,
        "teacher": (outcomes.teacher - outcomes.target) % num_classes,
        "target": outcomes.target,
    }
    texts = {name: _text(part, kind) for name, part in parts.items()}
    return {"num_classes": num_classes, "bytes": kind.itemsize, "relative_to": "target", **texts}


def unpacked(entry: dict[str, Any]) -> Outcomes | None:
    """From a record's `outcomes`; None where it is damaged. Older ones are relative to what the student predicted."""
    try:
        kind, num_classes = np.dtype(f"<u{entry['bytes']}"), int(entry["num_classes"])
        predicted, teacher, target = (_classes(entry[name], kind) for name in ("predicted", "teacher", "target"))
        if not 0 < len(predicted) == len(teacher) == len(target):
            return None
        if entry.get("relative_to") == "target":
            return Outcomes((predicted + target) % num_classes, (teacher + target) % num_classes, target)
        return Outcomes(predicted, (teacher + predicted) % num_classes, (target + predicted) % num_classes)
    except (KeyError, TypeError, ValueError, OverflowError, ZeroDivisionError, zlib.error):
        return None


def _text(classes: Classes, kind: np.dtype[Any]) -> str:
    return base64.b64encode(zlib.compress(classes.astype(kind.newbyteorder("<")).tobytes(), 9)).decode()


def _classes(text: str, kind: np.dtype[Any]) -> Classes:
    found = zlib.decompressobj().decompress(base64.b64decode(text), MOST_BYTES)
    return np.frombuffer(found, dtype=kind).astype(np.int64)

"""Weights that have a name on a hub: a key has the name, a record the digest of what that name meant."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdbench.errors import UserError
from kdbench.nets import kept_weights
from kdbench.suite.cells import Cell
from kdbench.suite.spec import ModelSpec
from kdbench.suite.starts import teaching

ENTRY = "hub_weights"  # of a record, and of a teacher's
MOST_TOLD = 5


def hub_weights(cell: Cell) -> dict[str, str]:
    """{name: digest} of all that the cell's student, its teachers and what it begins with take from hubs."""
    found: dict[str, str] = {}
    for spec in _nets(cell):
        found |= kept_weights(spec)
    return found


def _nets(cell: Cell) -> Iterator[ModelSpec]:
    yield cell.student
    for link in teaching(cell).values():
        yield link.teacher_net
    if cell.before is not None:
        yield from _nets(cell.before)


def others(told: Any, now: Mapping[str, str]) -> list[str]:
    """Names that meant something else by `told`, an entry, than they do now. What is not kept here is not judged."""
    known = told if isinstance(told, dict) else {}
    return [name for name, digest in known.items() if now.get(name, digest) != digest]


def check(cells: Iterable[Cell], records: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError where cells that are done began with other weights than the rest would begin with now."""
    made: dict[str, set[str]] = {}
    for cell in cells:
        if told := records.get(cell.key, {}).get(ENTRY):
            for name in others(told, hub_weights(cell)):
                made.setdefault(name, set()).add(cell.label)
    if made:
        lines = [f"{name} (rows {', '.join(sorted(rows)[:MOST_TOLD])})" for name, rows in sorted(made.items())]
        raise UserError(
            f"done cells began with other weights than those that are kept here now: {'; '.join(lines)}. Give the file "
            "of the earlier ones as `checkpoint:`, or begin anew with another `--results`"
        )

"""Cells with those that must be done before them."""

from collections.abc import Iterable

from kdbench.suite.cells import Cell


def teaching(cell: Cell) -> dict[str, Cell]:
    """The teachers that must be there before it trains, its own first: key -> a cell that the teacher teaches.

    Where a control stands in its teacher's place, the pair's own too if its student begins with that one's weights.
    """
    cells = [cell] if cell.giver is None else [cell, cell.giver]
    return {link.teacher_key: link for one in cells for link in one.lineage}


def with_starts(cells: Iterable[Cell]) -> list[Cell]:
    """The cells, each after what must be done before it, whether that is a row of the suite or not."""
    cells = list(cells)
    own = {cell.key for cell in cells}
    found: dict[str, Cell] = {}
    for cell in cells:
        befores: list[Cell] = []
        while (before := (befores[-1] if befores else cell).before) is not None:
            befores.append(before)
        found |= {b.key: b for b in reversed(befores) if b.key not in own and b.key not in found}
        found[cell.key] = cell
    return list(found.values())

"""Which cells train together."""

from collections.abc import Iterable

from kdbench.suite.cells import Cell


def cohorts_of(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells grouped into cohorts, in order of first appearance; those that others begin with first."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.cohort, []).append(cell)
    return sorted(groups.values(), key=lambda cohort: cohort[0].depth)

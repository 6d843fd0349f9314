"""What a board is made of, from a suite's file, the results, other folders and MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.data import NOT_THERE
from kdbench.grid.blocks import asked_cells, changed, with_all_seeds
from kdbench.layout import Layout
from kdbench.options import Options
from kdbench.report.frame import Beside
from kdbench.report.table import Board, make_board
from kdbench.results.looks_file import Declared, read_looks
from kdbench.results.merge import Found, from_folders, from_mlflow, from_results, with_recorded_data
from kdbench.results.verified_file import read_verified
from kdbench.suite.cells import Cell, cells_of, matching
from kdbench.suite.load import Suite, load_suite
from kdbench.suite.shipped import command_of
from kdbench.suite.starts import with_starts


def read_board(
    path: Path, options: Options, also: Sequence[Path] = (), mlflow: str | None = None, **shown: Any
) -> Board:
    """The board of what is done so far; nothing is written, and data that are not there are not needed."""
    return board_of(gather(path, options, also, mlflow), **shown)


@dataclass(frozen=True)
class Gathered:
    """A suite's cells and what there is of their records. `notes`: what a table must warn of."""

    suite: Suite
    cells: list[Cell]
    found: Found
    declared: Declared | None
    notes: list[str]
    checked: dict[str, str]  # what was found when cells were judged


def board_of(gathered: Gathered, **shown: Any) -> Board:
    """`shown`: as for `make_board`."""
    name, cells, records = gathered.suite.name, gathered.cells, gathered.found.records
    own = [records[cell.key] for cell in cells if cell.key in records]
    beside = Beside(gathered.notes, gathered.found.refused, gathered.checked, command_of(gathered.suite.path))
    return make_board(name, cells, own, beside=beside, declared=gathered.declared, **shown)


def gather(
    path: Path, options: Options, also: Sequence[Path] = (), mlflow: str | None = None, recorded: bool = False
) -> Gathered:
    """What a board is made of; data that are not there are not needed.

    `recorded`: where no record tells of the data that are here, cells are those of the data that they tell of.
    """
    suite, found = load_suite(path, options.plugins, models=False), Found()
    declared = read_looks(Layout(options.results).suite(suite.name))
    cells = cells_asked(suite, declared, options, unread=True)
    unknown = recorded or any(cell.data == NOT_THERE for cell in cells)
    from_results(found, options.results, suite.name, None if unknown else (cell.key for cell in cells))
    from_folders(found, also, suite.name)
    if mlflow:
        from_mlflow(found, mlflow, suite.name)
    if recorded:
        told = {record["settings"].get("data", "") for record in found.records.values()}
        cells = [cell if cell.data in told else without_data(cell) for cell in cells]
    cells, notes = with_recorded_data(cells, found.records.values())
    checked = read_verified(Layout(options.results).suite(suite.name), found.records.values())
    return Gathered(suite, cells, found, declared, [*notes, *changed(suite, declared)], checked)


def without_data(cell: Cell) -> Cell:
    return replace(cell, data=NOT_THERE, start=without_data(cell.start) if cell.start else None)


def cells_asked(suite: Suite, declared: Declared | None, options: Options, unread: bool = False) -> list[Cell]:
    """The suite's own, those that looks asked for, and those that they begin with."""
    if declared is None:
        return with_starts(cells_of(suite, options.only, options.data, unread))
    whole = cells_of(with_all_seeds(suite, declared), None, options.data, unread)
    return with_starts(matching(asked_cells(suite, declared, whole), options.only))

"""Boards of a made-up grid, written as the commands write them."""

from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.report.table import make_board
from kdbench.report.write import write_board
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell


def write_leaderboard(
    cells: list[Cell], records: list[Record], folder: Path, *, plots: bool = True, links: Any = None, **shown: Any
) -> tuple[pd.DataFrame, str]:
    """All files of the grid's board in `folder`; its table and its Markdown. `shown`: as for `make_board`."""
    board = make_board("grid", cells, records, **shown)
    return board.table, write_board(board, folder, plots=plots, links=links)

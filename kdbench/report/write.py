"""Writes every rendering of a board into the suite's folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.files import write_atomic
from kdbench.layout import SuiteFolder
from kdbench.report.html import html
from kdbench.report.latex import latex
from kdbench.report.markdown import markdown
from kdbench.report.table import Board
from kdbench.results.mlflow_thread import addresses_of


def write_board(board: Board, folder: Path, *, plots: bool = True, links: Mapping[str, str] | None = None) -> str:
    """Write `leaderboard.{md,csv,tex,html}` (one row per objective), `cells.{csv,parquet}`, `per_class.csv`, `plots/`.

    `links`: key -> address of the cell's MLflow run (default: those noted in the folder). Returns the Markdown.
    """
    place = SuiteFolder(folder)
    files = renderings(board, place, links or addresses_of(folder))
    for path, content in files.items():
        write_atomic(path, content.encode())
    write_parquet(board.frame, place.cells("parquet"))
    if plots:
        from kdbench.report.plots import write_plots  # matplotlib takes half a second to import

        write_plots(board, place.plots)
    return files[place.leaderboard("md")]


def renderings(board: Board, place: SuiteFolder, links: Mapping[str, str]) -> dict[Path, str]:
    """The board as text in every form, each with the file that it is for."""
    files = {
        place.leaderboard("md"): markdown(board),
        place.leaderboard("csv"): csv(board.table),
        place.leaderboard("tex"): latex(board),
        place.leaderboard("html"): html(board, links),
        place.cells("csv"): csv(board.frame),
    }
    return files | ({place.per_class: csv(board.per_class)} if len(board.per_class) else {})


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """One row per cell, numbers as numbers; nothing is written where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, frame.to_parquet(index=False))


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet takes what begins so for one


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV; text that a spreadsheet would take for a formula gets an apostrophe before it."""
    shown = frame.copy()
    for name in frame.select_dtypes(exclude="number"):
        shown[name] = frame[name].map(_no_formula)
    return shown.to_csv(index=False)


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

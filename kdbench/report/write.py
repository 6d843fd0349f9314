"""Writes every rendering of a board into the suite's folder."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from kdbench.files import write_atomic
from kdbench.report.html import html
from kdbench.report.latex import latex
from kdbench.report.markdown import markdown
from kdbench.report.table import Board
from kdbench.results.mlflow_thread import addresses_of


def write_board(board: Board, folder: Path, *, plots: bool = True, links: Mapping[str, str] | None = None) -> str:
    """Write `leaderboard.{md,csv,tex,html}` (one row per objective), `cells.{csv,parquet}`, `per_class.csv`, `plots/`.

    `links`: key -> address of the cell's MLflow run (default: those noted in the folder). Returns the Markdown.
    """
    text = markdown(board)
    files = {
        "leaderboard.md": text,
        "leaderboard.csv": board.table.to_csv(index=False),
        "leaderboard.tex": latex(board),
        "leaderboard.html": html(board, links or addresses_of(folder)),
        "cells.csv": board.frame.to_csv(index=False),
    }
    if len(board.per_class):
        files["per_class.csv"] = board.per_class.to_csv(index=False)
    for name, content in files.items():
        write_atomic(folder / name, content.encode())
    write_parquet(board.frame, folder / "cells.parquet")
    if plots:
        from kdbench.report.plots import write_plots  # matplotlib takes half a second to import

        write_plots(board, folder / "plots")
    return text


def outputs(folder: Path) -> list[Path]:
    """The files of a leaderboard, plots included."""
    names = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "leaderboard.html", "cells.csv", "per_class.csv")
    return [path for name in names if (path := folder / name).is_file()] + sorted((folder / "plots").glob("*.*"))


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """One row per cell, numbers as numbers; nothing is written where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, frame.to_parquet(index=False))

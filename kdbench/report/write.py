"""Writes every rendering of a leaderboard into the suite's folder."""

import importlib
import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from kdbench.errors import UserError
from kdbench.files import write_atomic
from kdbench.layout import SuiteFolder
from kdbench.report.table import GROUP, REFERENCE, Names, curves_of, frame_of, rows_of, table_of, with_missing
from kdbench.results.mlflow_thread import addresses_of
from kdbench.results.records import Record
from kdbench.suite.cells import Cell


def write_leaderboard(
    cells: list[Cell],
    records: Iterable[Record],
    folder: Path,
    suite: str,
    *,
    reference: str = REFERENCE,
    published: bool = False,
    plots: bool = True,
    links: dict[str, str] | None = None,
) -> tuple[pd.DataFrame, str]:
    """Write `leaderboard.{md,csv,tex,html}` (one row per objective), `cells.{csv,parquet}`, `per_class.csv`, `plots/`.

    `reference`: the row that gains are also counted against; `published`: put the literature's numbers beside ours;
    `links`: key -> address of the cell's MLflow run (default: those the mirror noted). Returns table and Markdown.
    """
    from kdbench.report import html as page
    from kdbench.report import latex
    from kdbench.report import markdown as report
    from kdbench.report import per_class as classes

    records = list(records)
    frame = with_missing(frame_of(records), cells)
    table = table_of(frame, reference)
    if published:
        table = with_published(table, cells)
    groups, curves = rows_of(table), curves_of(frame, records)
    links = links or addresses_of(folder)
    by_class = classes.per_class(frame, records)
    words = classes.class_words(by_class)
    text = report.markdown(table, groups, frame, suite, reference, words)
    place = SuiteFolder(folder)
    files = {
        place.leaderboard("md"): text,
        place.leaderboard("csv"): table.to_csv(index=False),
        place.leaderboard("tex"): latex.latex(groups, suite),
        place.leaderboard("html"): page.html(table, groups, frame, curves, suite, reference, links, words),
        place.cells("csv"): frame.to_csv(index=False),
    }
    if len(by_class):
        files[place.per_class] = by_class.to_csv(index=False)
    for path, content in files.items():
        write_atomic(path, content.encode())
    write_parquet(frame, place.cells("parquet"))
    if plots:
        from kdbench.report.plots import write_plots

        write_plots(table, groups, curves, place.plots)
    return table, text


def with_published(table: pd.DataFrame, cells: Iterable[Cell]) -> pd.DataFrame:
    """The table with the literature's numbers beside ours. Raises UserError where they are not installed."""
    names = Names()
    recipes = {(*names(cell), cell.label): json.dumps(cell.identity) for cell in cells}
    places = table[[*GROUP, "objective"]].itertuples(index=False, name=None)
    told = table.assign(recipe=[recipes.get(place, "") for place in places])
    try:
        published = importlib.import_module("kdbench.report.published")
    except ModuleNotFoundError as error:
        raise UserError("this installation holds no published numbers (kdbench.report.published)") from error
    return published.add_published(told).drop(columns="recipe")


def write_parquet(frame: pd.DataFrame, path: Path) -> None:
    """One row per cell, numbers as numbers; nothing is written where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, frame.to_parquet(index=False))

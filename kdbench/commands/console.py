"""What commands print with."""

import sys

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from kdbench.plain import LEGEND_BEGINS as LEGEND

SHORT = (
    "▲ better, ▼ worse, ≈ not distinguishable, at 5% over the whole table; ± over seeds; rows of group 1 are tied for "
    "the top. The file leaderboard.md says what each column is.\n"
)


def console() -> Console:
    """Rich's tables; without a terminal as wide as they need to be."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=220)


def table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.strip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    return made


def show_markdown(text: str) -> None:
    """On a terminal wide tables are laid out by rich; elsewhere the Markdown is printed as it is."""
    if sys.stdout.isatty():
        Console().print(Markdown(text))
    else:
        print(text)


def show_board(text: str) -> None:
    """A leaderboard: on a terminal with a short legend, for the long one would push the table off the screen."""
    table, legend, _ = text.partition(LEGEND)
    show_markdown(table + SHORT if legend and sys.stdout.isatty() else text)

"""What commands print with."""

import re
import sys
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from kdbench.plain import LEGEND_BEGINS as LEGEND
from kdbench.plain import inert

SHORT = (
    "▲ better, ▼ worse, ≈ not distinguishable, at 5% over the whole table; ± over seeds; rows of group 1 are tied for "
    "the top. The file leaderboard.md says what each column is.\n"
)
BETWEEN = 3  # characters between two columns of a table, as rich lays it out
LABEL = 16  # characters of a row's label that are kept, however narrow the terminal is


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
    """On a terminal tables are laid out by rich, as far as they fit; elsewhere the Markdown is printed as it is."""
    if sys.stdout.isatty():
        screen = Console()
        screen.print(Markdown(fitted(text, screen.width)))
    else:
        print(text)


def show_board(text: str) -> None:
    """A leaderboard: on a terminal with a short legend, for the long one would push the table off the screen."""
    table, legend, _ = text.partition(LEGEND)
    show_markdown(table + SHORT if legend and sys.stdout.isatty() else text)


def fitted(text: str, width: int) -> str:
    """Markdown whose tables fit into so many characters: whole columns are left out, for half a number misleads."""
    parts: list[str] = []
    for is_table, group in groupby(text.splitlines(), lambda line: line.startswith("|")):
        lines = list(group)
        parts += _fitted(lines, width) if is_table else lines
    return "\n".join(parts)


def _fitted(lines: list[str], width: int) -> list[str]:
    """A table; below it the names of the columns that are left out. Labels are cut where they must."""
    header, rule, *rows = ([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines)
    sides = [max(map(_seen, column)) for column in zip(header, *rows, strict=True)]
    kept, taken = 1, min(sides[0], LABEL)
    while kept < len(sides) and taken + BETWEEN + sides[kept] <= width - 2:
        taken, kept = taken + BETWEEN + sides[kept], kept + 1
    room = width - 2 - taken + min(sides[0], LABEL)
    made = [header, [re.sub("-+", "---", cell) for cell in rule], *([_cut(row[0], room), *row[1:]] for row in rows)]
    left_out = f"\nLeft out for the width of this terminal: {', '.join(header[kept:])}." if header[kept:] else ""
    return ["| " + " | ".join(row[:kept]) + " |" for row in made] + [left_out] * bool(left_out)


def _cut(label: str, room: int) -> str:
    """A label without its markup, where it must be cut."""
    return label if _seen(label) <= room else inert(f"{_plain(label)[: room - 1]}…")


def _seen(cell: str) -> int:
    """How wide a cell is where its markup is not shown."""
    return cell_len(_plain(cell))


def _plain(cell: str) -> str:
    return re.sub(r"\\(.)|\*+", r"\1", cell)

"""The leaderboard as a LaTeX table."""

import math
from collections.abc import Iterable

from kdbench.plain import one_line
from kdbench.report.rows import Pair, Row
from kdbench.report.table import Board
from kdbench.report.text import number

MARKS = {0: "\\textbf{%s}", 1: "\\underline{%s}"}  # by group


def latex(board: Board) -> str:
    """A booktabs table, objectives x pairs: tied for the top bold, the next group underlined, the spread small."""
    pairs = board.pairs
    labels = {row.label: escape(row.label) + (" (control)" if row.control else "") for row in board.rows}
    columns = [_column(pair) for pair in pairs]
    firsts = [pair.rows[0] for pair in pairs]
    about = f"{board.metric.title} after the last epoch, mean and deviation over seeds"
    lines = [
        f"% {board.suite}: {about}; needs \\usepackage{{booktabs}}",
        "% bold: tied for the top (the truly best is among them in 95% of tables; with one seed: the best number);",
        "% underlined: the next group; rows that lost seeds are never marked",
        f"\\begin{{tabular}}{{l{'r' * len(pairs)}}}",
        "\\toprule",
        _line("Data", (escape(row.dataset) for row in firsts)),
        _line("Teacher", (escape(row.teacher) for row in firsts)),
        _line("Student", (escape(row.student) for row in firsts)),
        "\\midrule",
        *(_line(shown, (column.get(label, "--") for column in columns)) for label, shown in labels.items()),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(head: str, parts: Iterable[str]) -> str:
    return " & ".join([head, *parts]) + " \\\\"


def _column(pair: Pair) -> dict[str, str]:
    done = [row for row in pair.done if math.isfinite(row.score)]
    groups = _groups(pair)
    return {row.label: MARKS.get(groups.get(row.label, 2), "%s") % number(row.score) + _spread(row) for row in done}


def _groups(pair: Pair) -> dict[str, int]:
    """Label -> 0 for the rows tied for the top, 1 for the next group; with one seed by the number as printed.

    Rows that are not ranked have none.
    """
    if pair.tied:
        return {row.label: row.tier for row in pair.ranked if row.tier is not None}
    shown = {row.label: float(number(row.ranked)) for row in pair.ranked}
    places = sorted(set(shown.values()), reverse=True)
    return {label: places.index(score) for label, score in shown.items()}


def _spread(row: Row) -> str:
    return f" {{\\tiny $\\pm$ {row.std:.2f}}}" if math.isfinite(row.std) else ""


def escape(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in one_line(text))

"""The leaderboard as a LaTeX table."""

import math
from collections.abc import Iterable

from kdbench.plain import one_line
from kdbench.report.rows import Pair, Row
from kdbench.report.table import Board
from kdbench.report.text import number


def latex(board: Board) -> str:
    """A booktabs table, objectives x pairs: best bold, second underlined, the spread small. Needs `booktabs`."""
    pairs = board.pairs
    labels = list(dict.fromkeys(row.label for row in board.rows))
    columns = [_column(pair) for pair in pairs]
    firsts = [pair.rows[0] for pair in pairs]
    about = f"{board.task.title} after the last epoch, mean and deviation over seeds"
    lines = [
        f"% {board.suite}: {about}; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{l{'r' * len(pairs)}}}",
        "\\toprule",
        _line("Data", (escape(row.dataset) for row in firsts)),
        _line("Teacher", (escape(row.teacher) for row in firsts)),
        _line("Student", (escape(row.student) for row in firsts)),
        "\\midrule",
        *(_line(escape(label), (column.get(label, "--") for column in columns)) for label in labels),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(head: str, parts: Iterable[str]) -> str:
    return " & ".join([head, *parts]) + " \\\\"


def _column(pair: Pair) -> dict[str, str]:
    done = [row for row in pair.done if math.isfinite(row.score)]
    shown = {row.label: number(row.score) for row in done}
    places = sorted(set(map(float, shown.values())), reverse=True)  # as printed: what looks equal is marked alike
    return {row.label: _marked(shown[row.label], places) + _spread(row) for row in done}


def _marked(text: str, places: list[float]) -> str:
    return {0: "\\textbf{%s}", 1: "\\underline{%s}"}.get(places.index(float(text)), "%s") % text


def _spread(row: Row) -> str:
    return f" {{\\tiny $\\pm$ {row.std:.2f}}}" if math.isfinite(row.std) else ""


def escape(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in one_line(text))

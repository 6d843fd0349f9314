"""The leaderboard as a LaTeX table."""

import math

from kdbench.report.table import Groups, Row
from kdbench.report.text import number


def latex(groups: Groups, suite: str) -> str:
    """A booktabs table, objectives x pairs: best bold, second underlined, the spread small. Needs `booktabs`."""
    names = list(dict.fromkeys(r["objective"] for _, rows in groups for r in rows))
    columns = [_latex_column(rows) for _, rows in groups]
    heads = [[escape(part) for part in _parts(name)] for name, _ in groups]
    lines = [
        f"% {suite}: top-1 after the last epoch, mean and deviation over seeds; needs \\usepackage{{booktabs}}",
        f"\\begin{{tabular}}{{l{'r' * len(groups)}}}",
        "\\toprule",
        *(" & ".join([what, *(head[place] for head in heads)]) + " \\\\" for place, what in enumerate(
            ("Data", "Teacher", "Student"))),
        "\\midrule",
        *(" & ".join([escape(name), *(column.get(name, "--") for column in columns)]) + " \\\\" for name in names),
        "\\bottomrule",
        "\\end{tabular}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _parts(name: str) -> list[str]:
    dataset, pair = name.split(": ", 1)
    return [dataset, *pair.split(" → ", 1)]


def _latex_column(rows: list[Row]) -> dict[str, str]:
    done = [r for r in rows if r["n"] and math.isfinite(r.get("test_top1", math.nan))]
    shown = {r["objective"]: number(r["test_top1"]) for r in done}
    places = sorted(set(map(float, shown.values())), reverse=True)  # as printed: what looks equal is marked alike
    found = {}
    for row in done:
        text = shown[row["objective"]]
        mark = {0: "\\textbf{%s}", 1: "\\underline{%s}"}.get(places.index(float(text)), "%s")
        spread = f" {{\\tiny $\\pm$ {row['std']:.2f}}}" if math.isfinite(row["std"]) else ""
        found[row["objective"]] = mark % text + spread
    return found


def escape(text: str) -> str:
    special = {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)

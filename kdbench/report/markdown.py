"""The leaderboard as Markdown, for GitHub and terminals."""

import math
from collections.abc import Iterable

import pandas as pd

from kdbench.report.per_class import ClassWords
from kdbench.report.statistics import EQUAL, MOST_SEEDS, Ranking, wins_ties_losses
from kdbench.report.summary import headline
from kdbench.report.table import NOT_DONE, Groups, Row, claims, ranking_of, sources
from kdbench.report.text import chance, duration, human, number, plus_minus

STUDENT = "the student alone"


def gain_text(row: Row, name: str) -> str:
    """`+1.01 [-2.13, +4.15] ≈`: mean, interval, and what the corrected test says of it."""
    gain, low, high = (row.get(name + end, math.nan) for end in ("", "_low", "_high"))
    if not math.isfinite(gain):
        return "–" if row.get(f"{name}_n") == 0 else ""
    if not math.isfinite(low):
        return number(gain, sign=True)
    return f"{gain:+.2f} [{low:+.2f}, {high:+.2f}] {'≈▲▼'[claims(row, name)]}"


def markdown(
    table: pd.DataFrame, groups: Groups, cells: pd.DataFrame, suite: str, reference: str, classes: ClassWords
) -> str:
    parts = [f"# Leaderboard: {suite}\n", " ".join(headline(table, groups)) + "\n"]
    found, warnings = sources(cells)
    parts += [f"> **Warning.** {line[0].upper()}{line[1:]}.\n" for line in warnings]
    for name, rows in groups:
        parts += [f"## {name}\n", teacher_line(rows) + "\n"]
        if any(r["n"] for r in rows):
            parts += [grid([accuracy(r, reference) for r in rows if r["n"]]) + "\n"]
            told = (*in_words(rows, reference), *of_classes(name, rows, classes), *remarks(rows))
            parts += [f"- {line}" for line in told]
            parts += ["", "What it costs, and what else differs:\n", grid([cost(r, rows) for r in rows if r["n"]])]
        else:
            parts += [f"- {line}" for line in remarks(rows)]
        parts.append("")
    if (ranking := ranking_of(table)) is not None:
        parts += ["## Across pairs\n", across(table, ranking, reference), ""]
    parts += [rests_on(found, cells) + "\n", LEGEND.replace("REFERENCE", reference)]
    return "\n".join(parts) + "\n"


def grid(rows: list[dict[str, str]]) -> str:
    """A Markdown table without the columns in which no row has anything to say."""
    shown = pd.DataFrame(rows)
    shown = shown.loc[:, ~shown.isin(["–", ""]).all()]
    align = ["left"] + ["right"] * (len(shown.columns) - 1)
    return shown.to_markdown(index=False, colalign=align, disable_numparse=True)


def accuracy(row: Row, reference: str) -> dict[str, str]:
    shown = {
        "objective": f"{row['objective']}{' *(alone)*' if row['alone'] else ''}",
        "n": str(row["n"]) + ("" if row["n"] == row["cells"] else f" of {row['cells']}"),
        "top-1 %": plus_minus(row.get("test_top1"), row.get("std")),
        "vs student": gain_text(row, "gain"),
        f"vs {reference}": gain_text(row, "reference_gain"),
        "chosen": number(row.get("test_top1_chosen")),
    }
    for name in row:
        if name in ("published", "ours - published", "published_teacher", "published_protocol"):
            shown[name.replace("_", " ")] = row[name] if isinstance(row[name], str) else number(row[name])
    return shown


def cost(row: Row, rows: list[Row]) -> dict[str, str]:
    base = next((r for r in rows if r["alone"] and r["n"]), {})
    step = row.get("cost_step_ms", math.nan) / (base.get("cost_step_ms") or math.nan)
    return {
        "objective": row["objective"],
        "best epoch": number(row.get("test_top1_best")),
        "NLL": number(row.get("test_nll"), 3),
        "ECE": number(row.get("test_ece"), 3),
        "agree %": number(row.get("teacher_agreement"), 1),
        "step": f"{step:.2f}x" if math.isfinite(step) else "–",
        "run": duration(row.get("cost_alone_seconds", math.nan)),
        "MiB": number(row.get("cost_peak_memory_mb"), 0),
        "adapters": human(row.get("cost_adapter_params")),
        "params": human(row.get("student_params")),
        "MACs": human(row.get("student_macs")),
        "CPU ms": number(row.get("student_cpu_ms_b1")),
        "GPU ms": number(row.get("student_gpu_ms_b1")),
    }


def in_words(rows: list[Row], reference: str) -> list[str]:
    """Which rows are better, worse, or not to be told apart, against the student alone and against the reference."""
    lines = []
    for name, other in (("gain", STUDENT), ("reference_gain", reference)):
        tested = [r for r in rows if math.isfinite(r.get(f"{name}_p_holm", math.nan))]
        for claim, word in ((1, "Better than"), (-1, "Worse than")):
            if found := [f"{r['objective']} (p {_short(r, name)})" for r in tested if claims(r, name) == claim]:
                lines.append(f"{word} {other}: {', '.join(found)}.")
        if unsure := [f"{r['objective']} ({_with_need(r, name)})" for r in tested if not claims(r, name)]:
            lines.append(f"Not distinguishable from {other} at this n: {', '.join(unsure)}.")
        if single := [r["objective"] for r in rows if r["n"] and r.get(f"{name}_n") == 1]:
            lines.append(f"One seed only, so no interval and no test against {other}: {', '.join(single)}.")
        if flat := [r["objective"] for r in rows if r.get(f"{name}_n", 0) > 1 and r not in tested]:
            lines.append(f"The same difference to {other} on every seed, no spread to judge by: {', '.join(flat)}.")
    return lines


def _with_need(row: Row, name: str) -> str:
    needed = row.get(f"{name}_seeds_needed")
    p = f"p {_short(row, name)}"
    if needed is None or not math.isfinite(needed) or needed <= row[f"{name}_n"]:
        return p
    return f"{p}; {f'{MOST_SEEDS} or more' if needed >= MOST_SEEDS else f'about {needed:.0f}'} seeds needed"


def _short(row: Row, name: str) -> str:
    return chance(row[f"{name}_p_holm"]).removeprefix("= ")


def of_classes(name: str, rows: list[Row], classes: ClassWords) -> list[str]:
    """Classes that are gained or lost for sure; one line for all rows without such a class."""
    told = {r["objective"]: classes[name, r["objective"]] for r in rows if (name, r["objective"]) in classes}
    lines = [f"By class, {label}: {harmless(text)}." for label, text in told.items() if ";" in text]
    if unsure := [label for label, text in told.items() if ";" not in text]:
        lines.append(f"By class, no gain or loss can be told from chance: {', '.join(unsure)} (see per_class.csv).")
    return lines


def teacher_line(rows: list[Row]) -> str:
    facts = next((r for r in rows if r["n"]), {})
    if not facts:
        return "No cell is done yet."
    return (
        f"Teacher: {number(facts.get('teacher_top1'))}% top-1, {human(facts.get('teacher_params'))} parameters, "
        f"{human(facts.get('teacher_macs'))} MACs, {number(facts.get('teacher_cpu_ms_b1'))} ms on one CPU thread."
    )


def remarks(rows: Iterable[Row]) -> list[str]:
    """What is not in the means: cells that are missing or did not end well."""
    lines = []
    for row in rows:
        for status in NOT_DONE:
            if row[f"n_{status}"]:
                reason = f": {harmless(row['reason'])}" if row["reason"] and status != "missing" else ""
                lines.append(f"{row['objective']}: {row[f'n_{status}']} of {row['cells']} cells {status}{reason}")
    return lines


def harmless(text: str) -> str:
    """One line that Markdown does not take for markup."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")


def across(table: pd.DataFrame, ranking: Ranking, reference: str) -> str:
    shown = []
    for name in sorted(ranking.ranks, key=lambda name: ranking.ranks[name][0]):
        rank, half = ranking.ranks[name]
        rows = table[table["objective"] == name]
        line = {"objective": name, "average rank": plus_minus(rank, half)}
        for column, other in (("gain", "student"), ("reference_gain", reference)):
            gains = rows.get(column, pd.Series(dtype=float)).reset_index(drop=True).dropna()
            wins, ties, losses = wins_ties_losses({str(k): float(v) for k, v in gains.items()})
            line[f"mean vs {other}"] = number(gains.mean(), sign=True) if len(gains) else ""
            line[f"won/tied/lost vs {other}"] = f"{wins}/{ties}/{losses}" if len(gains) else ""
        shown.append(line)
    friedman = f"Friedman's test that all are alike: p {chance(ranking.p)}. " if math.isfinite(ranking.p) else ""
    text = (
        f"Over {ranking.pairs} pairs, ± half of the rank's 95% interval; a tie is a difference within {EQUAL} points. "
        f"{friedman}Two average ranks closer than {ranking.critical:.2f} (Nemenyi, 5%) can't be told apart."
    )
    left = (
        f" Not ranked, since without a score on every pair: {', '.join(ranking.left_out)}." if ranking.left_out else ""
    )
    return f"{grid(shown)}\n\n{text}{left}"


def rests_on(found: dict[str, list[str]], cells: pd.DataFrame) -> str:
    done = int((cells["status"] == "done").sum()) if len(cells) else 0
    facts = [f"{name} {', '.join(values)}" for name, values in found.items() if values]
    return f"**What it rests on.** {done} finished cells; {'; '.join(facts)}." if facts else "No record yet."


LEGEND = """\
**How to read it.** *top-1*: accuracy on the test set after the last epoch, mean ± standard deviation over `n` seeds. \
*vs student*, *vs REFERENCE*: mean difference on the same seeds and its 95% interval (Student's t; none with one \
seed; each interval by itself). ▲ better, ▼ worse, ≈ not distinguishable: by the paired t test at 5%, corrected over \
every test of the table (Holm); *p* is the corrected one. The best of many rows looks a little better than it is. \
*(alone)*: the student alone, which learns from labels only. *Seeds needed*: for 80% power at the observed difference, \
uncorrected. *chosen*: test accuracy at the epoch chosen on held-out data. *best \
epoch*: the best test accuracy of any epoch, which is what much of the literature reports; it looks at the test set \
and decides nothing here. *NLL*, *ECE*: of the last epoch. *agree*: share of test pictures on which student and \
teacher give the same class. *step*: one training step against the student alone's, without the teacher. *run*: time \
of training alone on the device named above, teacher's forward included. *MiB*: the most memory of the process until \
then. *adapters*: parameters that the method adds while training. *params*, *MACs* (FLOPs = 2 x MACs), *CPU ms* (one \
picture, one thread): the student's at inference."""

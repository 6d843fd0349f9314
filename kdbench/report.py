"""The leaderboard as text: the headline in plain words, and Markdown for GitHub and terminals."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from kdbench.leaderboard import GROUP, NOT_DONE, claims, human, ranking_of, sources, title
from kdbench.statistics import EQUAL, MOST_SEEDS, Ranking, wins_ties_losses

Row = dict[str, Any]
Groups = list[tuple[str, list[Row]]]  # (title, rows) of every comparison
ClassWords = dict[tuple[str, str], str]  # (title, objective) -> what is certain of single classes
STUDENT = "the student alone"


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"


def chance(p: float) -> str:
    """`= 0.031` or `< 0.001`"""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def duration(seconds: float) -> str:
    """`40 s`, `2.5 min`, `1.2 h`"""
    unit, size = next((u for u in (("h", 3600), ("min", 60)) if seconds >= 1.5 * u[1]), ("s", 1))
    return f"{seconds / size:.3g} {unit}" if math.isfinite(seconds) else "–"


def plus_minus(value: Any, spread: Any) -> str:
    return number(value) if spread is None or not math.isfinite(spread) else f"{value:.2f} ± {spread:.2f}"


def gain_text(row: Row, name: str) -> str:
    """`+1.01 [-2.13, +4.15] ≈`: mean, interval, and what the corrected test says of it."""
    gain, low, high = (row.get(name + end, math.nan) for end in ("", "_low", "_high"))
    if not math.isfinite(gain):
        return "–" if row.get(f"{name}_n") == 0 else ""
    if not math.isfinite(low):
        return number(gain, sign=True)
    return f"{gain:+.2f} [{low:+.2f}, {high:+.2f}] {'≈▲▼'[claims(row, name)]}"


def rows_of(table: pd.DataFrame) -> Groups:
    groups: Any = table.groupby(GROUP, sort=False) if len(table) else []
    return [(title(g), [{str(k): v for k, v in r.items()} for r in part.to_dict("records")]) for g, part in groups]


# --- the headline ----------------------------------------------------------------------------------------------------


def headline(table: pd.DataFrame, groups: Groups) -> list[str]:
    """Three sentences: what was compared, what won by how much and how surely, what it costs."""
    if not any(r["n"] for _, rows in groups for r in rows):
        return ["No cell is done yet."]
    best = winner(table)
    won = _won(groups, best) if len(groups) > 1 else _won_one(groups[0][1], best)
    return [_compared(table, groups), won, _costs(groups, best)]


def winner(table: pd.DataFrame) -> str | None:
    """The objective with the highest mean on one pair; over several, with the best average rank (else mean gain)."""
    good = table[(table["n"] > 0) & ~table["alone"]] if "test_top1" in table else table[:0]
    if not len(good):
        return None
    ranking = ranking_of(table)
    if ranking:
        names = [name for name in ranking.ranks if name in set(good["objective"])]
        if names:
            return min(names, key=lambda name: ranking.ranks[name][0])
    means = good.groupby("objective", sort=False)["gain" if good.get("gain") is not None else "test_top1"].mean()
    means = means.fillna(good.groupby("objective")["test_top1"].mean())
    return str(means.idxmax()) if means.notna().any() else None


def _compared(table: pd.DataFrame, groups: Groups) -> str:
    seeds = sorted({int(n) for n in table.loc[table["n"] > 0, "n"]})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    done, cells = int(table["n"].sum()), int(table["cells"].sum())
    objectives = table["objective"].nunique()
    where = f"on {groups[0][0]}" if len(groups) == 1 else f"on {len(groups)} pairs of data set, teacher and student"
    plural = "seed" if many == "1" else "seeds"
    return (
        f"{objectives} objectives were compared {where}, with {many} {plural} each ({done} of {cells} cells are done)."
    )


def _won_one(rows: list[Row], best: str | None) -> str:
    row = next((r for r in rows if r["objective"] == best), None)
    base = next((r for r in rows if r["alone"] and r["n"]), None)
    if row is None:
        return "There is no result beside the student alone."
    top = f"{best} has the highest mean, {number(row['test_top1'])}%"
    if base is None:
        return f"{top}; the student alone was not run, so there is no gain to speak of."
    if not math.isfinite(row.get("gain", math.nan)):
        return f"{top}; it has no seed in common with the student alone."
    if row["gain"] < 0:
        return (
            f"Nothing beats the student alone ({number(base['test_top1'])}%): {best} comes nearest, {row['gain']:+.2f}."
        )
    gain = f"{top}, {row['gain']:+.2f} points against the student alone ({number(base['test_top1'])}%)"
    if not math.isfinite(row["gain_low"]):
        return f"{gain}: {row['gain_says']}."
    span = f"95% interval {row['gain_low']:+.2f} to {row['gain_high']:+.2f}"
    return f"{gain}, {span}: {row['gain_says']} (p {chance(row['gain_p_holm'])} after correction over the table)."


def _won(groups: Groups, best: str | None) -> str:
    if best is None:
        return "There is no result beside the student alone."
    ours = {name: r for name, rows in groups for r in rows if r["objective"] == best and r["n"]}
    gains = {name: r.get("gain", math.nan) for name, r in ours.items()}
    known = [gain for gain in gains.values() if math.isfinite(gain)]
    if not known:
        return f"{best} ranks best; there is no student alone to count its gain against."
    wins, ties, losses = wins_ties_losses(gains)
    sure = sum(claims(row) == 1 for row in ours.values())
    return (
        f"{best} does best over the pairs: {sum(known) / len(known):+.2f} points against the student alone on average; "
        f"{wins} wins, {ties} ties (within {EQUAL} points), {losses} losses; on {sure} of {len(known)} pairs its gain "
        "stands after correction over the table."
    )


def _costs(groups: Groups, best: str | None) -> str:
    steps, hours, adapters = [], [], []
    for _, rows in groups:
        base = next((r for r in rows if r["alone"] and r["n"]), {})
        row = next((r for r in rows if r["objective"] == best and r["n"]), {})
        steps.append(row.get("cost_step_ms", math.nan) / (base.get("cost_step_ms") or math.nan))
        hours.append(row.get("cost_alone_seconds", math.nan) / (base.get("cost_alone_seconds") or math.nan))
        adapters.append(row.get("cost_adapter_params", math.nan))
    step, hour, adapter = (pd.Series(values, dtype=float).mean() for values in (steps, hours, adapters))
    if not math.isfinite(step):
        return "What that costs in training can't be said: the student alone, or its times, are missing."
    extra = f", and {human(adapter)} parameters of its own while training" if adapter else ""
    all_in = f"with the teacher's forward a run takes {hour:.2f}x the time{extra}"
    return f"Its training step takes {step:.2f}x the student alone's; {all_in}."


# --- Markdown --------------------------------------------------------------------------------------------------------


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
        if name in ("published", "ours - published", "published_protocol"):
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

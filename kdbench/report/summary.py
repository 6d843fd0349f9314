"""Numbers as text, and the headline: what was compared, what won by how much and how surely, what it costs."""

import math

import pandas as pd

from kdbench.report.statistics import EQUAL, wins_ties_losses
from kdbench.report.table import Groups, Row, claims, ranking_of
from kdbench.report.text import chance, human, number


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

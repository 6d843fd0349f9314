"""The headline: what was compared, what won by how much and how surely, what it costs."""

import math
from collections.abc import Iterable

import pandas as pd

from kdbench.report.gains import STUDENT
from kdbench.report.rows import Pair, Row
from kdbench.report.statistics import EQUAL, wins_ties_losses
from kdbench.report.table import Board
from kdbench.report.text import chance, human, number


def headline(board: Board) -> list[str]:
    """Three sentences: what was compared, what won by how much and how surely, what it costs."""
    if not any(pair.done for pair in board.pairs):
        return ["No cell is done yet."]
    best = winner(board)
    if best is None:
        won = f"There is no result beside {STUDENT}."
    elif len(board.pairs) == 1:
        won = _won_one(board, board.pairs[0], best)
    else:
        won = _won(board.pairs, best)
    return [_compared(board), won, _costs(board.pairs, best)]


def winner(board: Board) -> str | None:
    """The objective with the highest mean on one pair; over several, with the best average rank (else mean gain)."""
    good = [row for row in board.rows if row.n and not row.alone]
    labels = list(dict.fromkeys(row.label for row in good))
    if board.ranking is not None:
        ranks = board.ranking.ranks
        if names := [name for name in ranks if name in labels]:
            return min(names, key=lambda name: ranks[name][0])
    means = {label: _mean_gain([row for row in good if row.label == label]) for label in labels}
    return max(means, key=lambda label: means[label], default=None)


def _mean_gain(rows: list[Row]) -> float:
    gain = mean(row.gained for row in rows)
    return gain if math.isfinite(gain) else mean(row.score for row in rows)


def mean(values: Iterable[float]) -> float:
    """Of those that are known; NaN without any."""
    return float(pd.Series(list(values), dtype=float).mean())


def _compared(board: Board) -> str:
    rows = board.rows
    seeds = sorted({row.n for row in rows if row.n})
    many = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    done, cells = sum(row.n for row in rows), sum(row.cells for row in rows)
    pairs = board.pairs
    where = f"on {pairs[0].title}" if len(pairs) == 1 else f"on {len(pairs)} pairs of data set, teacher and student"
    return (
        f"{len({row.label for row in rows})} objectives were compared {where}, with {many} "
        f"{'seed' if many == '1' else 'seeds'} each ({done} of {cells} cells are done)."
    )


def _won_one(board: Board, pair: Pair, best: str) -> str:
    row = next(r for r in pair.rows if r.label == best)
    unit, base = board.task.unit, pair.alone
    top = f"{best} has the highest mean, {number(row.score)}{unit}"
    if base is None:
        return f"{top}; {STUDENT} was not run, so there is no gain to speak of."
    gain = row.gain
    if gain is None or not math.isfinite(gain.mean):
        return f"{top}; it has no seed in common with {STUDENT}."
    against = f"{STUDENT} ({number(base.score)}{unit})"
    if gain.mean < 0:
        return f"Nothing beats {against}: {best} comes nearest, {gain.mean:+.2f}."
    gained = f"{top}, {gain.mean:+.2f} points against {against}"
    if not gain.has_interval:
        return f"{gained}: {gain.says}."
    span = f"95% interval {gain.low:+.2f} to {gain.high:+.2f}"
    return f"{gained}, {span}: {gain.says} (p {chance(gain.p_holm)} after correction over the table)."


def _won(pairs: list[Pair], best: str) -> str:
    ours = {pair.title: row for pair in pairs for row in pair.done if row.label == best}
    gains = {name: row.gained for name, row in ours.items()}
    known = [gain for gain in gains.values() if math.isfinite(gain)]
    if not known:
        return f"{best} ranks best; there is no student alone to count its gain against."
    wins, ties, losses = wins_ties_losses(gains)
    sure = sum(row.claim == 1 for row in ours.values())
    return (
        f"{best} does best over the pairs: {sum(known) / len(known):+.2f} points against {STUDENT} on average; "
        f"{wins} wins, {ties} ties (within {EQUAL} points), {losses} losses; on {sure} of {len(known)} pairs its gain "
        "stands after correction over the table."
    )


def _costs(pairs: list[Pair], best: str | None) -> str:
    ours = [(pair, row) for pair in pairs for row in pair.done if row.label == best]
    step = mean(pair.cost_ratio(row, "step_ms") for pair, row in ours)
    run = mean(pair.cost_ratio(row, "alone_seconds") for pair, row in ours)
    adapter = mean(row.cost.adapter_params for _, row in ours)
    if not math.isfinite(step):
        return f"What that costs in training can't be said: {STUDENT}, or its times, are missing."
    extra = f", and {human(adapter)} parameters of its own while training" if adapter else ""
    all_in = f"with the teacher's forward a run takes {run:.2f}x the time{extra}"
    return f"Its training step takes {step:.2f}x {STUDENT}'s; {all_in}."

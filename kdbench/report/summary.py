"""The headline: what was compared, what won by how much and how surely, what it costs."""

import math
from collections.abc import Iterable

import pandas as pd

from kdbench.report.across import MeanGain
from kdbench.report.gains import STUDENT
from kdbench.report.rows import Pair, Row
from kdbench.report.statistics import ALPHA, EQUAL, Ranking, wins_ties_losses
from kdbench.report.table import Board
from kdbench.report.text import chance, human, number
from kdbench.report.ties import winners_advantage

MOST_NAMED = 6  # tied rows named in a sentence
MATTERS = 0.1  # of the winner's gain: a smaller advantage by chance is not worth a sentence


def headline(board: Board) -> list[str]:
    """What was compared; what won by how much and how surely, or that nothing did; who is tied; what it costs."""
    if not any(pair.done for pair in board.pairs):
        return ["No cell is done yet."]
    best = winner(board)
    if best is None:
        won = [f"There is no result beside {STUDENT}."]
    elif len(board.pairs) == 1:
        won = _won_one(board, board.pairs[0], best)
    else:
        won = _won(board, best)
    return [_compared(board), *won, _costs(board.pairs, best)]


def winner(board: Board) -> str | None:
    """The objective with the highest mean on one pair; over several, with the best average rank (else mean gain).

    Rows that are not ranked can't win, nor can one whose teacher is a control; without any other there is none.
    """
    good = [row for row in board.rows if row.is_ranked and not row.alone and not row.control]
    labels = list(dict.fromkeys(row.label for row in good))
    if board.ranking is not None:
        ranks = board.ranking.ranks
        if names := [name for name in ranks if name in labels]:
            return min(names, key=lambda name: ranks[name][0])
    if len(board.pairs) == 1:
        return max(good, key=lambda row: row.ranked).label if good else None
    means = {label: _mean_gain([row for row in good if row.label == label]) for label in labels}
    return max(means, key=lambda label: means[label], default=None)


def _mean_gain(rows: list[Row]) -> float:
    gain = mean(row.gained for row in rows)
    return gain if math.isfinite(gain) else mean(row.ranked for row in rows)


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


# --- one pair --------------------------------------------------------------------------------------------------------


def _won_one(board: Board, pair: Pair, best: str) -> list[str]:
    row = next(r for r in pair.rows if r.label == best)
    unit, base = pair.metric.unit, pair.alone
    top = f"{best} has the highest mean, {number(row.ranked)}{unit}"
    if base is None:
        return [f"{top}; {STUDENT} was not run, so there is no gain to speak of.", *ties_in_words(pair)]
    gain = row.gain
    if gain is None or not math.isfinite(gain.mean):
        return [f"{top}; it has no seed in common with {STUDENT}.", *ties_in_words(pair)]
    against = f"{STUDENT} ({number(base.score)}{unit})"
    if gain.mean <= 0:
        return [f"Nothing beats {against}: {best} comes nearest, {gain.mean:+z.2f}.", *ties_in_words(pair)]
    gained = f"{top}, {gain.mean:+z.2f} points against {against}"
    if gain.has_interval:
        sure = f" (p {chance(gain.p_corrected)} after correction over the table)"
        gained = f"{gained}, 95% interval {gain.low:+.2f} to {gain.high:+.2f}: {gain.says}{sure}"
    else:
        gained = f"{gained}: {gain.says}"
    return [f"{gained}.", *by_chance([pair], gain.mean), *ties_in_words(pair)]


def ties_in_words(pair: Pair) -> list[str]:
    """`4 of 20 are tied for the top: a, b, c, d.`; nothing where seeds are too few to tell."""
    tied = [row.label for row in pair.tied]
    if not tied:
        return []
    count = len(pair.ranked)
    if len(tied) == 1:
        return [f"No other of the {count} is tied with {tied[0]} for the top."] if count > 1 else []
    if len(tied) == count:
        all_of_them = "Both" if count == 2 else f"All {count}"
        return [f"{all_of_them} are tied for the top: none can be told apart from the best."]
    return [f"{len(tied)} of {count} are tied for the top: {_named(tied)}."]


def _named(labels: list[str]) -> str:
    rest = len(labels) - MOST_NAMED
    return ", ".join(labels[:MOST_NAMED]) + (
        f" and {rest} others" if rest > 1 else "" if rest < 1 else f", {labels[-1]}"
    )


def by_chance(pairs: list[Pair], gain: float) -> list[str]:
    """What the best row would lead by if no row differed, where that is a good part of what the winner gained."""
    tables = [{STUDENT if row.alone else row.label: pair.standing.scores[row.label] for row in pair.ranked}
              for pair in pairs]  # fmt: skip
    count = len(set.intersection(*map(set, tables)) - {STUDENT}) if tables else 0
    advantage = winners_advantage(tables, STUDENT)
    if count < 2 or advantage < max(MATTERS * gain, 0.005):
        return []
    return [f"If none of the {count} differed from {STUDENT}, the best of them would still lead by {advantage:.2f}."]


# --- several pairs ---------------------------------------------------------------------------------------------------


def _won(board: Board, best: str) -> list[str]:
    ours = {pair.title: row for pair in board.pairs for row in pair.ranked if row.label == best}
    gains = {name: row.gained for name, row in ours.items()}
    known = [gain for gain in gains.values() if math.isfinite(gain)]
    if not known:
        return [f"{best} ranks best; there is no {STUDENT.removeprefix('the ')} to count its gain against."]
    over = board.mean_gains.get(best) or MeanGain(len(known), sum(known) / len(known))
    where = f"{over.mean:+z.2f} points{_span(over)} against {STUDENT}, the mean over {over.num} pairs"
    if over.mean <= 0:
        first = f"Nothing beats {STUDENT} over the pairs: {best} comes nearest, {where}"
    elif stands(board, best):
        first = f"{best} does best over the pairs: {where}{_p_of(over)}"
    else:
        first = f"No row is surely better than {STUDENT} over the pairs: {best} ranks best, {where}{_p_of(over)}"
    wins, ties, losses = wins_ties_losses(gains)
    sure = sum(row.claim == 1 for row in ours.values())
    counts = (
        f"{wins} wins, {ties} ties (within {EQUAL} points), {losses} losses; on {sure} of {len(known)} pairs its gain "
        "stands after correction over that pair's table"
    )
    more = by_chance([pair for pair in board.pairs if pair.done], over.mean) if over.mean > 0 else []
    return [f"{first}; {counts}.", *more, *ranks_in_words(board, best)]


def _span(gain: MeanGain) -> str:
    return f" (95% interval {gain.low:+.2f} to {gain.high:+.2f})" if math.isfinite(gain.low) else ""


def _p_of(gain: MeanGain) -> str:
    return f" (p {chance(gain.p)}, corrected over the rows)" if math.isfinite(gain.p) else ""


def stands(board: Board, best: str) -> bool:
    """Is it surely better than the student alone over the pairs? By its mean gain, or by ranks where seeds are few."""
    over = board.mean_gains.get(best)
    if over is not None and math.isfinite(over.p):
        return over.claim == 1
    alone = next((row.label for row in board.rows if row.alone), None)
    ranks = board.ranking.ranks if board.ranking else {}
    if board.ranking is None or alone not in ranks or best not in ranks or not board.ranking.p < ALPHA:
        return False
    return ranks[alone][0] - ranks[best][0] >= board.ranking.critical


def ranks_in_words(board: Board, best: str) -> list[str]:
    """Who can't be told apart from the best by average ranks."""
    if board.ranking is None or best not in board.ranking.ranks:
        return []
    tied = tied_by_rank(board.ranking, best)
    count = len(board.ranking.ranks)
    if len(tied) == count:
        return [f"By average rank none of the {count} can be told apart from it (Friedman, Nemenyi)."]
    return [f"By average rank {len(tied)} of {count} are tied for the top: {_named(tied)}."] if len(tied) > 1 else []


def tied_by_rank(ranking: Ranking, best: str) -> list[str]:
    """Those not told apart from `best`, best first; all of them where Friedman's test sees no difference."""
    names = sorted(ranking.ranks, key=lambda name: ranking.ranks[name][0])
    if len(names) > 2 and not ranking.p < ALPHA:
        return names
    return [name for name in names if ranking.ranks[name][0] - ranking.ranks[best][0] < ranking.critical]


def _costs(pairs: list[Pair], best: str | None) -> str:
    ours = [(pair, row) for pair in pairs for row in pair.done if row.label == best]
    step = mean(pair.cost_ratio(row, "step_ms") for pair, row in ours)
    run = mean(pair.cost_ratio(row, "alone_seconds") for pair, row in ours)
    adapter = mean(row.cost.adapter_params for _, row in ours)
    if not math.isfinite(step):
        return f"What that costs in training can't be said: {STUDENT}, or its times, are missing."
    extra = f", and trains {human(adapter)} parameters beside the student's" if adapter else ""
    all_in = f"with the teacher's forward a run takes {run:.2f}x the time{extra}"
    return f"The training step of {best} takes {step:.2f}x {STUDENT}'s; {all_in}."

"""The leaderboard as Markdown, for GitHub and terminals."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

from kdbench.plain import several
from kdbench.report.across import MeanGain
from kdbench.report.compression import LEGEND, cells_of_line
from kdbench.report.gains import STUDENT, Gain
from kdbench.report.inert import inert_board
from kdbench.report.meaning import legend, notes_of
from kdbench.report.rows import LOST, Pair, Row
from kdbench.report.statistics import EQUAL, MOST_SEEDS, Ranking, wins_ties_losses
from kdbench.report.summary import headline, mean, ties_in_words
from kdbench.report.table import Board
from kdbench.report.text import chance, duration, human, number, plus_minus

MOST_REFUSED = 10  # records whose reasons are told
UNFAIR = "what is left is not a fair sample: not ranked, and never called better"
AT, OWN_AT = "teacher_cpu_ms_b1_at_", "student_cpu_ms_b1_at_"  # and a shape: columns of a row's means


def markdown(board: Board) -> str:
    board = inert_board(board)
    parts = [f"# Leaderboard: {board.suite}\n", " ".join(headline(board)) + "\n"]
    parts += [f"> **Warning.** {line[0].upper()}{line[1:]}.\n" for line in board.sources.warnings]
    parts += [f"> **Not believed.** {line}.\n" for line in not_believed(board)]
    for pair in board.pairs:
        parts += [f"## {pair.title}\n", teacher_line(pair) + "\n"]
        if pair.done:
            parts += [grid([accuracy(row, board) for row in pair.done]) + "\n"]
            parts += [f"- {line}" for line in below(pair, board)]
            parts += ["", "What it costs, and what else differs:\n", grid([cost(row, pair) for row in pair.done])]
        else:
            parts += [f"- {line}" for line in remarks(pair.rows)]
        parts.append("")
    if board.ranking is not None:
        parts += ["## Across pairs\n", across(board.rows, board.ranking, board.mean_gains, board.reference), ""]
    for dataset, lines in board.compression.items():
        parts += [f"## What to ship: {dataset}\n", grid([cells_of_line(line) for line in lines]), "", LEGEND, ""]
    return "\n".join([*parts, rests_on(board) + "\n", legend(board)]) + "\n"


def below(pair: Pair, board: Board) -> list[str]:
    """What stands below a pair's table: what is not in it first, then the verdicts, then what they hold for."""
    tied = ties_in_words(pair) if len(board.pairs) > 1 else []  # of one pair the headline has told it
    verdicts = in_words(pair.rows, board.reference)
    return [*remarks(pair.rows), *tied, *verdicts, *classes_in_words(pair, board), *notes_of(pair)]


def not_believed(board: Board) -> list[str]:
    """How many records were refused, and why the first ones."""
    refused = board.sources.refused
    more = [f"And {len(refused) - MOST_REFUSED} more"] if len(refused) > MOST_REFUSED else []
    return [f"{len(refused)} records are not counted", *refused[:MOST_REFUSED], *more] if refused else []


def grid(rows: list[dict[str, str]]) -> str:
    """A Markdown table without the columns in which no row has anything to say."""
    shown = pd.DataFrame(rows)
    shown = shown.loc[:, ~shown.isin(["–", ""]).all()]
    align = ["left"] + ["right"] * (len(shown.columns) - 1)
    return shown.to_markdown(index=False, colalign=align, disable_numparse=True)


def accuracy(row: Row, board: Board) -> dict[str, str]:
    few = "" if row.n == row.cells else f" of {row.cells}"
    shown = {
        "objective": f"{row.label}{' *(alone)*' if row.alone else ' *(control)*' if row.control else ''}",
        "n": f"{row.n}{few}" + (f", {row.lost} lost" if row.lost else ""),
        "group": "–" if row.tier is None else str(row.tier + 1),
        row.metric.head: plus_minus(row.score, row.std),
        "vs student": gain_text(row.gain),
        "with new examples": new_text(row.gain),
        f"vs {board.reference}": gain_text(row.reference_gain),
        "chosen": number(row.chosen),
        "checked": row.checked,
    }
    if (later := board.adapted.get((row.names, row.label))) is not None:
        name = later.dataset.removesuffix(f" after {row.dataset}")
        shown |= {f"then {name}": plus_minus(later.score, later.std), f"then {name} vs student": gain_text(later.gain)}
    if (beside := row.published) is not None:
        shown |= {"published": number(beside.number), "ours - published": number(beside.difference),
                  "published teacher": number(beside.teacher), "published protocol": beside.protocol}  # fmt: skip
    return shown


def gain_text(gain: Gain | None) -> str:
    """`+1.01 [-2.13, +4.15] ≈`: mean, interval, and what the corrected test says of it."""
    if gain is None:
        return ""
    if not math.isfinite(gain.mean):
        return "–"
    if not gain.has_interval:
        return number(gain.mean, sign=True)
    return f"{gain.mean:+z.2f} [{gain.low:+.2f}, {gain.high:+.2f}] {'≈▲▼'[gain.claim]}"


def new_text(gain: Gain | None) -> str:
    """The interval of the gain over the student alone that holds for other test examples too."""
    return f"[{gain.new_low:+.2f}, {gain.new_high:+.2f}]" if gain and gain.has_new_interval else ""


def cost(row: Row, pair: Pair) -> dict[str, str]:
    step = pair.cost_ratio(row, "step_ms")
    return {
        "objective": row.label,
        "best epoch": number(row.best),
        "k-NN %": number(row.means.get("test_knn_top1", math.nan)),
        "NLL": number(row.scores.test_nll, 3),
        "ECE": number(row.scores.test_ece, 3),
        "corrupted": number(row.scores.test_corrupted_top1),
        "agree %": number(row.scores.teacher_agreement, 1),
        "seeds agree %": number(row.between_seeds, 1),
        "copied %": number(row.copied, 1),
        "step": f"{step:.2f}x" if math.isfinite(step) else "–",
        "data": f"{row.cost.data_share:.0f}%" if math.isfinite(row.cost.data_share) else "–",
        "run": duration(row.cost.alone_seconds),
        "MiB": number(row.cost.peak_memory_mb, 0),
        "adapters": human(row.cost.adapter_params),
        "params": human(row.size.params),
        "MACs": human(row.size.macs),
        "CPU ms": number(row.size.cpu_ms_b1),
        "GPU ms": number(row.size.gpu_ms_b1),
    }


def in_words(rows: list[Row], reference: str) -> list[str]:
    """Which rows are better, worse, or not to be told apart, against the student alone and against the reference."""
    to_student = [(row.label, row.gain) for row in rows if row.gain is not None]
    to_reference = [(row.label, row.reference_gain) for row in rows if row.reference_gain is not None]
    return [*_compared(to_student, STUDENT), *_compared(to_reference, reference)]


def _compared(gains: list[tuple[str, Gain]], other: str) -> list[str]:
    lines = []
    tested = [(label, gain) for label, gain in gains if gain.tested]
    for claim, word in ((1, "Better than"), (-1, "Worse than")):
        if found := [f"{label} (p {_short(gain)})" for label, gain in tested if gain.claim == claim]:
            lines.append(f"{word} {other}: {', '.join(found)}.")
    if unsure := [f"{label} ({_with_need(gain)})" for label, gain in tested if not gain.claim]:
        lines.append(f"Not distinguishable from {other} at this n: {', '.join(unsure)}.")
    if single := [label for label, gain in gains if gain.n == 1]:
        lines.append(f"One seed only, so no interval and no test against {other}: {', '.join(single)}.")
    if flat := [label for label, gain in gains if gain.n > 1 and not gain.tested]:
        lines.append(f"No row varies from seed to seed, no spread to judge by against {other}: {', '.join(flat)}.")
    return lines


def _with_need(gain: Gain) -> str:
    needed, p = gain.seeds_needed, f"p {_short(gain)}"
    if needed is None or needed <= gain.n:
        return p
    return f"{p}; {f'{MOST_SEEDS} or more' if needed >= MOST_SEEDS else f'about {needed}'} seeds needed"


def _short(gain: Gain) -> str:
    return chance(gain.p_corrected).removeprefix("= ")


def classes_in_words(pair: Pair, board: Board) -> list[str]:
    """Classes that are gained or lost for sure; one line for all rows without such a class."""
    words = board.class_words
    known = {row.label: words[pair.title, row.label] for row in pair.rows if (pair.title, row.label) in words}
    lines = [f"By class, {label}: {text}." for label, text in known.items() if ";" in text]
    if unsure := [label for label, text in known.items() if ";" not in text]:
        lines.append(f"By class, no gain or loss can be told from chance: {', '.join(unsure)} (see per_class.csv).")
    return lines


def teacher_line(pair: Pair) -> str:
    row = pair.taught
    if row is not None and row.adapts:
        first = row.adapts.split("\t")[0]
        return f"Each row's student, distilled on {first}, learns these data from their labels; no teacher is asked."
    if row is None:
        return "No cell is done yet." if not pair.done else "Only rows with a control teacher have a result yet."
    size = row.teacher_size
    return (
        f"Teacher: {number(row.teacher_score)}{pair.metric.unit} {pair.metric.title}, {human(size.params)} parameters, "
        f"{human(size.macs)} MACs, {number(size.cpu_ms_b1)} ms on one CPU thread{begun(row)}.{in_other_shapes(row)}"
    )


def begun(row: Row) -> str:
    """Whether it was fine-tuned, and from what."""
    teacher = json.loads(row.recipe or "{}").get("teacher")
    model = teacher.get("model") if isinstance(teacher, dict) and "train" in teacher else None
    given = [name for name in ("pretrained", "checkpoint") if isinstance(model, dict) and model.get(name)]
    if not given:
        return ""
    return f"; fine-tuned from {'weights of a file' if given == ['checkpoint'] else 'pretrained weights'}"


def in_other_shapes(row: Row) -> str:
    """What teacher and student take where inputs come in several shapes (texts of several lengths); else nothing."""
    shapes = [name.removeprefix(AT) for name in row.means if name.startswith(AT)]
    times = [
        f"{shape}: {number(row.means[AT + shape])} / {number(row.means.get(OWN_AT + shape, math.nan))}"
        for shape in sorted(shapes, key=lambda shape: (len(shape), shape))
    ]
    return f" In other shapes (teacher / student, ms): {', '.join(times)}." if times else ""


def remarks(rows: Iterable[Row]) -> list[str]:
    """What is not in the means: cells that did not end well, then those that do not apply or are missing."""
    lines = [line for row in rows for line in _not_done(row)]
    return [text for lost, text in lines if lost] + [text for lost, text in lines if not lost]


def _not_done(row: Row) -> Iterator[tuple[bool, str]]:
    """(is a score lost?, what to tell)"""
    for status, count in row.not_done.items():
        if count:
            reason = f": {' '.join(row.reason.split())}" if row.reason and status != "missing" else ""
            lost = status in LOST
            unfair = f"; {UNFAIR}" if lost and row.n else ""
            yield lost, f"{row.label}: {count} of {several(row.cells, 'cell')} {status}{reason}{unfair}"


def _interval(gain: MeanGain | None) -> str:
    if gain is None or not math.isfinite(gain.low):
        return ""
    return f"[{gain.low:+.2f}, {gain.high:+.2f}] {'≈▲▼'[gain.claim]}"


def across(rows: list[Row], ranking: Ranking, mean_gains: Mapping[str, MeanGain], reference: str) -> str:
    by_label: dict[str, list[Row]] = {label: [] for label in ranking.ranks}
    for row in rows:
        by_label.get(row.label, []).append(row)
    shown = []
    for label in sorted(ranking.ranks, key=lambda label: ranking.ranks[label][0]):
        ours = by_label[label]
        line = {"objective": label, "average rank": plus_minus(*ranking.ranks[label])}
        line |= _wins([row.gain for row in ours], "student")
        line["95% interval"] = _interval(mean_gains.get(label))
        line |= _wins([row.reference_gain for row in ours], reference)
        shown.append(line)
    friedman = f"Friedman's test that all are alike: p {chance(ranking.p)}. " if math.isfinite(ranking.p) else ""
    text = (
        f"Over {ranking.pairs} pairs, ± half of the rank's 95% interval; a tie is a difference within {EQUAL} points. "
        f"{friedman}Two average ranks closer than {ranking.critical:.2f} (Nemenyi, 5%) can't be told apart; the pairs "
        "count as independent, though they may share nets. *95% interval*: of the mean gain, for these pairs and other "
        "seeds; its sign is corrected over the rows (Holm)."
    )
    left = (
        f" Not ranked, since without all seeds on every pair: {', '.join(ranking.left_out)}."
        if ranking.left_out
        else ""
    )
    return f"{grid(shown)}\n\n{text}{left}"


def _wins(gains: list[Gain | None], other: str) -> dict[str, str]:
    known = {str(place): gain.mean for place, gain in enumerate(gains) if gain and math.isfinite(gain.mean)}
    wins, ties, losses = wins_ties_losses(known)
    return {
        f"mean vs {other}": number(mean(known.values()), sign=True) if known else "",
        f"won/tied/lost vs {other}": f"{wins}/{ties}/{losses}" if known else "",
    }


def rests_on(board: Board) -> str:
    sources = board.sources
    facts = [f"{name} {', '.join(values)}" for name, values in sources.made_by.items() if values]
    facts += [f"made with {sources.command}"] if facts and sources.command else []
    return (
        f"**What it rests on.** {several(sources.num_done, 'finished cell')}; {'; '.join(facts)}."
        if facts
        else "No record yet."
    )

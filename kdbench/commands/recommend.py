"""After a run: which student to ship, trained how, and how surely that is better than plain training."""

import argparse
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdbench.api import Options
from kdbench.commands.given import options_of
from kdbench.errors import UserError
from kdbench.gathered import gather, read_board
from kdbench.method.metric import TOP1
from kdbench.plain import several
from kdbench.report.frame import GROUP, title
from kdbench.report.gains import Gain, differences
from kdbench.report.rows import Row
from kdbench.report.statistics import of_differences
from kdbench.report.table import Board
from kdbench.report.text import human, number
from kdbench.results.other_state import other_state
from kdbench.results.outcomes import OUTCOMES, unpacked
from kdbench.results.records import Records
from kdbench.results.schema import Record

FEW_EPOCHS, FEW_SEEDS = 20, 3
UNKNOWN = {  # what there is to say where no row has it
    "fastest": "No latency was measured.",
    "one of fewest parameters": "No parameters were counted.",
    "smallest": "No file was measured: only suites with `transforms`, `from` or `then` measure files.",
}


@dataclass(frozen=True)
class Limits:
    """None: there is none. `latency_ms`: of one example on one CPU thread; `bytes`: of the file that is delivered."""

    latency_ms: float | None
    params: float | None
    bytes: float | None

    @property
    def of(self) -> tuple[tuple[str, float | None, Callable[[Row], float]], ...]:
        """What the row nearest to a limit is called, that limit, and what it is of."""
        return (
            ("fastest", self.latency_ms, lambda row: row.latency),
            ("one of fewest parameters", self.params, lambda row: row.size.params),
            ("smallest", self.bytes, lambda row: row.file.bytes),
        )

    def allow(self, row: Row) -> bool:
        """A size that is not known (NaN) is within no limit."""
        return all(limit is None or value(row) <= limit for _, limit, value in self.of)


def run(given: argparse.Namespace) -> int:
    print(recommendation(given.suite, options_of(given), given.max_latency_ms, given.max_params, given.max_bytes))
    return 0


def recommendation(
    suite: Path,
    options: Options,
    max_latency_ms: float | None = None,
    max_params: float | None = None,
    max_bytes: float | None = None,
) -> str:
    """A few lines per data set: which student and method to ship, how surely it is better, and what delivers it."""
    board = read_board(suite, options)
    rows = [row for row in board.rows if row.n and not row.control]
    if not rows:
        left = other_state(options.results, board.suite, gather(suite, options).cells)
        why = f" ({left})" if left else ""
        raise UserError(f"{board.suite}: no cell is done in {options.results}{why}; first: kdbench run {suite}")
    limits = Limits(max_latency_ms, max_params, max_bytes)
    parts = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        here = [row for row in rows if row.dataset == dataset]
        good = [row for row in here if limits.allow(row)]
        parts.append("\n".join(_advice(board, good, options.results) if good else _none(dataset, here, limits)))
    return "\n\n".join(parts)


def _none(dataset: str, rows: list[Row], limits: Limits) -> list[str]:
    """What is nearest to each limit that was given, or that nothing is known of it."""
    asked = [value for _, limit, value in limits.of if limit is not None]
    measured = all(any(math.isfinite(value(row)) for row in rows) for value in asked)
    lines = [f"{dataset}: no student is {'' if measured else 'known to be '}within the limits."]
    for word, limit, value in limits.of:
        known = [row for row in rows if math.isfinite(value(row))]
        if limit is not None and known:
            nearest = min(known, key=value)
            lines.append(f"The {word}, {nearest.student} ({_how(nearest)}), takes {_size(nearest)}.")
        elif limit is not None:
            lines.append(UNKNOWN[word])
    return lines


def _size(row: Row) -> str:
    """Of a file, where that was measured."""
    filed = math.isfinite(row.file.bytes)
    where = " in ONNX Runtime" if filed else ""
    size = f"{number(row.latency)} ms an example on one CPU thread{where}, {human(row.size.params)} parameters"
    return f"{size}, a file of {human(row.file.bytes)} bytes" if filed else size


def _advice(board: Board, rows: list[Row], results: Path) -> list[str]:
    metric = rows[0].metric
    held_out = all(math.isfinite(row.held_out) for row in rows)
    fair = [row for row in rows if not row.lost] or rows  # what is left of lost seeds may be the lucky ones
    highest = max(fair, key=lambda row: row.score)
    record = _one_record(board, highest, results)
    if guess := _mere_guessing(highest, record):
        name = title((highest.dataset, highest.teacher, highest.student))
        return [name, guess, *_beside(highest, record)]
    learnt = [row for row in fair if not _mere_guessing(row, record)]
    first = max(learnt, key=lambda row: row.held_out if held_out else row.score)
    best = _plain_instead(board, first, learnt)
    chosen = "held-out examples" if held_out else "the test examples, so its score is a little too good"
    equal = sum(row.held_out == first.held_out for row in learnt) if held_out else 1
    chosen += f", where {equal} rows are equal" * (equal > 1)
    spread = f" ± {best.std:.2f}" if math.isfinite(best.std) else ""
    record = _one_record(board, best, results)
    lines = [
        title((best.dataset, best.teacher, best.student)),
        f"Ship {best.student} {_trained(best)}: {best.score:.2f}{metric.unit}{spread} {metric.title} over "
        f"{several(best.n, 'seed')}; {_size(best)}. Chosen on {chosen}.",
        *_beside(best, record),
        *(_how_sure(best) if best is first else _why_plain(first)),
        *(_whether_taught(board, best) if best.alone and best is first else []),
        *_decides_little(best, record),
    ]
    ordered = _cells(board.frame, best).sort_values(metric.delivered if held_out else metric.test)
    key = ordered["key"].iloc[-1 if held_out else len(ordered) // 2]
    alike = held_out and sum(ordered[metric.delivered] == ordered[metric.delivered].iloc[-1]) > 1
    which = f"{'a' if alike else 'the'} seed best on held-out examples" if held_out else "the seed in the middle"
    return [*lines, f"Deliver it ({which}): kdbench export {key} --format onnx --results {results}"]


def _plain_instead(board: Board, best: Row, rows: list[Row]) -> Row:
    """The student alone, where nothing tells the best row from it, it scores no less and its file is no larger."""
    plain = next((row for row in rows if row.alone and row.names == best.names), best)
    larger = plain.size.params > best.size.params or plain.file.bytes > best.file.bytes
    if best.alone or best.claim != 0 or plain.score < best.score or larger or _surely_above(board, best, plain):
        return best
    return plain


def _surely_above(board: Board, row: Row, other: Row) -> bool:
    """On held-out examples, by the paired t test over seeds; without them nothing is."""
    ours, theirs = (_held_out(board.frame, one) for one in (row, other))
    return of_differences(differences(ours, theirs)).low > 0


def _held_out(frame: pd.DataFrame, row: Row) -> dict[Hashable, float]:
    """Seed -> score on held-out examples."""
    cells = _cells(frame, row)
    if row.metric.delivered not in cells:
        return {}
    return dict(zip(cells["seed"], cells[row.metric.delivered].astype(float), strict=True))


def _why_plain(best: Row) -> list[str]:
    """`best`: what would be chosen by its score."""
    gain = f": {_in_words(best.gain)}" if best.gain and math.isfinite(best.gain.mean) else ""
    return [f"{best.label} has {best.score:.2f}{best.metric.unit}{gain}. It needs a teacher, for no more that is sure."]


def _how(row: Row) -> str:
    """In brackets after a student's name."""
    if row.alone:
        return "trained on labels" if row.begun_by else "trained plainly"
    return row.label


def _trained(row: Row) -> str:
    if row.alone and row.begun_by:
        return f"trained on labels, from {row.begun_by}"
    return "trained plainly, without a teacher" if row.alone else f"trained with {row.label}"


def _one_record(board: Board, row: Row, results: Path) -> Record:
    """One of the row's finished cells, where its record is at hand: a board may be of a server's."""
    keys = _cells(board.frame, row)["key"]
    return next(iter(Records(results, board.suite).read_many(keys).values()), {})


def _chance(record: Record) -> float:
    """The share of the test examples that are of the largest class, in percent; NaN where a record has no classes."""
    found = unpacked(record.get(OUTCOMES) or {})
    if found is None or not len(found.target):
        return math.nan
    return 100 * float(np.bincount(found.target).max()) / len(found.target)


def _beside(best: Row, record: Record) -> list[str]:
    """What the score is to be held against."""
    chance, unit = _chance(record), best.metric.unit
    words = [f"always naming the largest class {chance:.2f}{unit}"] if best.metric == TOP1 and chance == chance else []
    words += [f"the teacher {best.teacher_score:.2f}{unit}"] if math.isfinite(best.teacher_score) else []
    lines = [f"Beside it: {', '.join(words)}."] if words else []
    plain = best.score if best.alone else best.score - best.gain.mean if best.gain is not None else math.nan
    if best.teacher_score <= plain:
        plainly = "from labels alone" if best.begun_by else "plainly"
        better = "" if best.teacher_score == 100 else ": get a better one"
        lines.append(f"The teacher scores no higher than the student trained {plainly}{better}.")
    return lines


def _mere_guessing(best: Row, record: Record) -> str:
    """What to do where nothing was learnt: the best row is not surely above naming the largest class. Else empty."""
    chance, count = _chance(record) / 100, record.get("num_test") or 0
    if best.metric != TOP1 or not chance < 1 or not count:
        return ""
    sure = 1.96 * math.sqrt(chance * (1 - chance) / count)
    if best.score / 100 > chance + sure:
        return ""
    too = ", nor the teacher" if best.teacher_score / 100 <= chance + sure else ""
    return (
        f"Ship nothing yet: {several(count, 'test example')} can't tell any student from guessing{too}. The best, "
        f"{best.student} ({_how(best)}), has {best.score:.2f}{best.metric.unit}. More "
        "examples or epochs may help, and weights that know such data (`pretrained: true`, or `checkpoint: FILE` with "
        "`head: new`)."
    )


def _decides_little(best: Row, record: Record) -> list[str]:
    epochs = record.get("settings", {}).get("train", {}).get("epochs", FEW_EPOCHS) or FEW_EPOCHS
    few = [several(epochs, "epoch")] * (epochs < FEW_EPOCHS) + [several(best.n, "seed")] * (best.n < FEW_SEEDS)
    ends = "s" if few in (["1 epoch"], ["1 seed"]) else ""
    return [f"{' and '.join(few)} decide{ends} little between methods."] if few else []


def _cells(frame: pd.DataFrame, row: Row) -> pd.DataFrame:
    """The finished cells of a row."""
    same = (frame["status"] == "done") & (frame["label"] == row.label)
    for name, value in zip(GROUP, (row.dataset, row.teacher, row.student), strict=True):
        same &= frame[name] == value
    return frame[same]


def _how_sure(best: Row) -> list[str]:
    """Of a row with a teacher."""
    if best.alone:
        return []
    gain = best.gain
    if gain is None or not math.isfinite(gain.mean):
        return ["The student alone was not run on the same seeds, so its gain is not known."]
    begun = f"the student that goes on from {best.begun_by} by labels alone"
    against = begun if best.begun_by else "the plain student"
    lines = [f"Against {against}: {_in_words(gain)}."]
    if gain.has_new_interval and gain.claim == 1 and gain.new_low <= 0:
        lines.append("On these test examples the gain is sure; for new ones it is not: there may be too few of them.")
    plain = "labels alone" if best.begun_by else "plain training, which needs no teacher,"
    if gain.claim == 0:
        lines.append(f"So nothing is decided: {plain} may do as well.")
    if gain.claim == -1:
        lines.append(f"On the test examples {plain} does better: they and the held-out examples disagree.")
    return lines


def _in_words(gain: Gain) -> str:
    span = ""
    if gain.has_new_interval:
        span = f" (95% interval for new examples of this kind {gain.new_low:+.2f} to {gain.new_high:+.2f})"
    elif gain.has_interval:
        span = f" (95% interval on these test examples {gain.low:+.2f} to {gain.high:+.2f})"
    return f"{gain.mean:+z.2f} points{span}: {gain.says}"


def _whether_taught(board: Board, plain: Row) -> list[str]:
    """Would a teacher help? Of the student alone, beside the rows that had one."""
    words = "labels alone" if plain.begun_by else "plain training"
    gains = {row.label: row.gain for row in board.rows if row.names == plain.names and not row.control and row.gain}
    known = {label: gain for label, gain in gains.items() if math.isfinite(gain.mean)}
    if not known:
        return ["No method with a teacher was run on the same seeds, so what one would gain is not known."]
    nearest = max(known, key=lambda label: known[label].mean)
    if all(gain.claim == -1 for gain in known.values()):
        here = "there" if plain.begun_by else "here"
        return [f"Every method did worse than {words}: there is nothing to gain from a teacher {here}."]
    held = f"{nearest} comes nearest to {words}, {_in_words(known[nearest])}."
    better = any(gain.claim == 1 for gain in known.values())
    return [held, "They and the held-out examples disagree." if better else "So nothing is decided between them."]

"""A board with nothing in its texts that Markdown would take for markup: names and reasons come from outside."""

from dataclasses import replace
from typing import Any

from kdbench.plain import inert
from kdbench.report.frame import Sources
from kdbench.report.rows import Pair, Row
from kdbench.report.table import Board


def inert_board(board: Board) -> Board:
    """The same board, harmless."""
    ranking, sources = board.ranking, board.sources
    return replace(
        board,
        suite=inert(board.suite),
        reference=inert(board.reference),
        pairs=[_inert_pair(pair) for pair in board.pairs],
        ranking=ranking and replace(ranking, ranks={inert(label): rank for label, rank in ranking.ranks.items()},
                                    left_out=tuple(map(inert, ranking.left_out))),
        mean_gains={inert(label): gain for label, gain in board.mean_gains.items()},
        sources=Sources(
            sources.num_done,
            {name: [inert(value) for value in values] for name, values in sources.made_by.items()},
            [inert(line) for line in sources.warnings],
            tuple(map(inert, sources.refused)),
            inert(sources.command),
        ),
        class_words={(inert(where), inert(label)): inert(text) for (where, label), text in board.class_words.items()},
    )  # fmt: skip


def _inert_pair(pair: Pair) -> Pair:
    scores = {inert(label): by_seed for label, by_seed in pair.standing.scores.items()}
    rows = [_inert_row(row) for row in pair.rows]
    return replace(pair, title=inert(pair.title), rows=rows, standing=replace(pair.standing, scores=scores))


def _inert_row(row: Row) -> Row:
    names = ("dataset", "teacher", "student", "label", "reason")
    texts: dict[str, Any] = {name: inert(getattr(row, name)) for name in names}
    return replace(row, **texts)

"""Seeds in blocks until the comparisons are decided, without more false claims than with all seeds at once.

After each block the table is looked at. Looks are declared beforehand as numbers of seeds; the 5% of false claims are
spent in proportion to the seeds (Lan and DeMets 1983, 10.1093/biomet/70.3.659; Kim and DeMets 1987, power 1). At each
look all comparisons not yet claimed are tested by the step-down test at the level spent there, so the looks' levels add
up to a bound on false claims over all of them, however the looks depend on each other. What was dropped as not
decidable is never claimed later but stays among the tests corrected for: it was dropped for being small, and those
left are the largest of all.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy  # whole, for its parts are imported when they are asked for: `plan` asks for none

from kdbench.report.chance import Scores
from kdbench.report.model import DRAWS, Contrast, compare
from kdbench.report.statistics import ALPHA
from kdbench.results.looks_file import Declared

HOPELESS = 0.1  # chance to be claimed with all seeds, below which a comparison gets no more of them
State = Literal["open", "decided", "not decidable"]  # shown as it is


@dataclass(frozen=True)
class Standing:
    """Where a comparison stands; `contrast` as it was at the look, the last so far, that `seeds` seeds made."""

    state: State
    seeds: int
    contrast: Contrast


@dataclass(frozen=True)
class Progress:
    """After the looks that the runs allow: standings by (row, reference), and the runs that the next look needs.

    `missing` is empty when nothing is open any more or all looks are done.
    """

    standings: dict[tuple[str, str], Standing]
    missing: dict[str, tuple[Hashable, ...]] = field(default_factory=dict)

    def of(self, row: str, reference: str) -> Contrast | None:
        standing = self.standings.get((row, reference))
        return standing.contrast if standing else None

    @property
    def seeds(self) -> int:
        """That the last look made had; 0 before the first."""
        return max((standing.seeds for standing in self.standings.values()), default=0)

    def among(self, state: State) -> list[tuple[str, str]]:
        return [pair for pair, standing in self.standings.items() if standing.state == state]


@dataclass(frozen=True)
class Looked:
    """The looks at one pair: what was declared, what was tried (see `until_decided`), and what came of it."""

    declared: Declared
    tried: Scores
    references: tuple[str, str]
    progress: Progress

    @classmethod
    def at(cls, declared: Declared, tried: Scores, references: tuple[str, str]) -> "Looked":
        limits = declared.seeds, declared.looks
        progress = until_decided(tried, list(dict.fromkeys(references)), *limits, affordable=declared.affordable)
        return cls(declared, tried, references, progress)


def spent(looks: Sequence[int], level: float = ALPHA) -> list[float]:
    """Level of each look: its share of the seeds, so that all add up to `level`.

    Raises ValueError unless the numbers of seeds rise and the first is 2 or more.
    """
    if not looks or looks[0] < 2 or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks must be rising numbers of seeds from 2 on, not {list(looks)}")
    return (level * np.diff([0, *looks]) / looks[-1]).tolist()


def until_decided(
    scores: Scores,
    references: Sequence[str],
    seeds: Sequence[Hashable],
    looks: Sequence[int],
    *,
    affordable: int | Sequence[int] = (),
    draws: int = DRAWS,
    draw_seed: int = 0,
) -> Progress:
    """Replays all looks whose runs are there: the same runs give the same answer, however often a run was broken off.

    `scores`: {row: {seed: score}} of all rows wanted, those without runs included; NaN: tried, no score (diverged).
    `seeds`: in the order in which they are added; at look k the first `looks[k]` of them count. Rows without an open
    comparison get no more seeds; references do while anything is open. `affordable`: seeds that the budget allows, or
    allowed at each look (at later ones as at the last); what they can't decide is dropped. Both looks and seeds must
    not be changed once scores were seen.
    """
    levels = spent(looks)
    allowed = [affordable] if isinstance(affordable, int) else list(affordable) or [looks[-1]]
    most = looks[0]
    standings: dict[tuple[str, str], Standing] = {}
    open_pairs: set[tuple[str, str]] | None = None
    tested: set[tuple[str, str]] | None = None
    for place, (num, level) in enumerate(zip(looks, levels, strict=True)):
        if open_pairs is not None and (not open_pairs or num > most):
            break
        most = min(looks[-1], allowed[min(place, len(allowed) - 1)])
        block = seeds[:num]
        missing = _missing(scores, references, block, open_pairs)
        if missing:
            return Progress(standings, missing)
        part = {label: {seed: row[seed] for seed in block if seed in row} for label, row in scores.items()}
        found = compare(part, references, only=tested, level=level, draws=draws, seed=draw_seed)
        for contrast in found.contrasts:
            pair = contrast.row, contrast.reference
            if open_pairs is None or pair in open_pairs:
                standings[pair] = Standing(_state(contrast, most, num), num, contrast)
        open_pairs = {pair for pair, standing in standings.items() if standing.state == "open"}
        tested = {pair for pair, standing in standings.items() if standing.state != "decided"}
    return Progress(standings)


def _missing(
    scores: Scores, references: Sequence[str], block: Sequence[Hashable], open_pairs: set[tuple[str, str]] | None
) -> dict[str, tuple[Hashable, ...]]:
    """Runs of this block that are still to do, of the rows that have an open comparison (None: of all)."""
    if open_pairs is None:
        wanted = set(scores)
    else:
        wanted = {row for row, _ in open_pairs} | {name for name in references if name in scores}
    found = {label: tuple(s for s in block if s not in row) for label, row in scores.items() if label in wanted}
    return {label: left for label, left in found.items() if left}


def _state(contrast: Contrast, most: int, num: int) -> State:
    if contrast.claimed:
        return "decided"
    return "open" if num < most and chance_to_decide(contrast, most) >= HOPELESS else "not decidable"


def chance_to_decide(contrast: Contrast, most: int) -> float:
    """Chance that `most` seeds will show the difference, if further seeds go on as those seen (predictive power)."""
    if not contrast.std > 0:
        return 1.0 if contrast.n < 2 else 0.0
    n, asked = contrast.n, contrast.critical / math.sqrt(most)
    if most <= n:
        return 0.0
    size, spread = abs(contrast.mean) / contrast.std, math.sqrt(1 / n - 1 / most)
    return float(scipy.stats.norm.sf((asked - size) / spread) + scipy.stats.norm.cdf((-asked - size) / spread))

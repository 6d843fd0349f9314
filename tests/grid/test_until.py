"""Seeds in blocks until decided: a whole run with a stub that trains nothing, and the table that it leaves."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdbench.api import Options, make_leaderboard, run_suite
from kdbench.errors import UserError
from kdbench.grid.blocks import declare
from kdbench.grid.events import Events, Stop
from kdbench.grid.executors import Queue
from kdbench.grid.outcome import record_of
from kdbench.layout import Layout
from kdbench.results.looks_file import read_looks
from kdbench.results.records import Records
from kdbench.suite.cells import Cell
from kdbench.suite.load import load_suite
from kdbench.train.loop import Stopped
from kdbench.until import run_until_decided

pytestmark = pytest.mark.usefixtures("quick_profile")
ROWS: dict[str, Any] = {
    "student": {"ce": 1},
    "kd": {"ce": 1, "kd": 1},
    "sp": {"ce": 1, "sp": 3000},
    "rkd": {"ce": 1, "rkd": 1},
}
# What each row has above the student alone: kd is seen at once, sp later, rkd hardly ever.
GAINS = {"student": 0.0, "kd": 5.0, "sp": 0.75, "rkd": 0.01}
CPU = torch.device("cpu")


class Drawn:
    """An executor that draws each cell's score instead of training it. `most`: cells after which it is killed."""

    threads, count, about = None, 1, ""

    def __init__(self, gains: dict[str, float] = GAINS, most: float = math.inf) -> None:
        self.gains, self.most = gains, most
        self.made: list[tuple[str, int]] = []

    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
        [queue] = queues
        for job in queue.jobs:
            for cell in queue.open_cells(job):
                if stop() or len(self.made) >= self.most:
                    raise Stopped
                events.finished(record_of(cell, CPU, "done", scores=self.scores(cell)), None)
                self.made.append((cell.label, cell.seed))

    def scores(self, cell: Cell) -> dict[str, float]:
        noise = np.random.default_rng([cell.seed, len(cell.label)]).normal(0, 0.3)
        return {"test_top1": 70 + self.gains[cell.label] + float(noise), "teacher_top1": 90.0}


@pytest.fixture
def suite(suite_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("kdbench.grid.run.prove", lambda *_: None)
    monkeypatch.setattr("kdbench.report.looks.DRAWS", 1000)
    return suite_file(methods=ROWS, seeds=[0, 1, 2])


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(results=tmp_path / "results", device="cpu")


def table_of(options: Options) -> str:
    return Layout(options.results).suite("tiny").leaderboard("md").read_text()


def seeds_of(options: Options) -> dict[str, int]:
    labels = [record["label"] for record in Records(options.results, "tiny").read_all()]
    return {label: labels.count(label) for label in ROWS}


def test_looks_are_in_proportion_to_the_suites_seeds(suite_file: Callable[..., Path]) -> None:
    found = declare(load_suite(suite_file(seeds=[4, 0, 7])))
    assert found.looks == (3, 5, 7, 10)
    assert found.seeds == (4, 0, 7, 1, 2, 3, 5, 6, 8, 9)
    assert declare(load_suite(suite_file(seeds=[0, 1]))).looks == (2, 4, 5, 7)
    with pytest.raises(UserError, match="needs 2 seeds to begin with"):
        declare(load_suite(suite_file(seeds=[0])))


def test_seeds_are_added_where_a_comparison_is_open(suite: Path, options: Options) -> None:
    executor = Drawn()
    outcome = run_until_decided(suite, options, executor=executor)
    assert outcome.exit_code == 0
    counts = seeds_of(options)
    assert counts["sp"] > 3  # was open at the first look
    assert counts["student"] == max(counts.values())  # what all are compared with
    assert len(executor.made) == len(set(executor.made)) == sum(counts.values()) < 40
    text = table_of(options)
    assert "Seeds were added until decided: looks at 3, 5, 7, 10 seeds were declared" in text
    assert "kd against the student alone (3 seeds)" in text
    gain = next(row.gain for row in outcome.board.pairs[0].rows if row.label == "kd")  # type: ignore[union-attr]
    assert gain is not None
    assert (gain.n, gain.claim) == (3, 1)  # as it was when it was decided
    assert gain.says == "better than the student alone (decided at the look at 3 seeds)"


def test_a_table_without_effects_ends_early_and_says_so(suite: Path, options: Options) -> None:
    outcome = run_until_decided(suite, options, executor=Drawn(dict.fromkeys(ROWS, 0.0)))
    assert outcome.board is not None
    assert all(row.claim == 0 for row in outcome.board.rows)
    made = outcome.board.pairs[0].looked
    assert made is not None
    assert made.progress.among("open") == []
    assert made.progress.seeds < 10
    assert f"stopped early, at look {[3, 5, 7, 10].index(made.progress.seeds) + 1} of 4" in table_of(options)
    assert "Given up: " in table_of(options)


@pytest.mark.parametrize("most", [2, *(pytest.param(n, marks=pytest.mark.long) for n in (12, 15))])
def test_broken_off_and_resumed_it_ends_the_same(suite: Path, options: Options, tmp_path: Path, most: int) -> None:
    whole = Options(results=tmp_path / "whole", device="cpu")
    run_until_decided(suite, whole, executor=Drawn())

    class Killed(Drawn):
        def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
            try:
                super().run(queues, events, stop)
            except Stopped:
                raise KeyboardInterrupt from None

    if most < sum(seeds_of(whole).values()):
        with pytest.raises(KeyboardInterrupt):
            run_until_decided(suite, options, executor=Killed(most=most))
    run_until_decided(suite, options, executor=Drawn())
    assert seeds_of(options) == seeds_of(whole)
    told = [line for line in table_of(whole).splitlines() if line.startswith("- ")]
    assert told == [line for line in table_of(options).splitlines() if line.startswith("- ")]
    assert read_looks(Layout(options.results).suite("tiny")) == read_looks(Layout(whole.results).suite("tiny"))


def test_every_later_table_is_read_by_the_looks(suite: Path, options: Options) -> None:
    """A plain run and a plain leaderboard too: runs that were looked at can't be judged as if they had not been."""
    executor = Drawn()
    run_until_decided(suite, options, executor=executor)
    before, count = table_of(options), len(executor.made)
    _, text = make_leaderboard(suite, options)
    assert text == before
    outcome = run_suite(suite, options, executor=executor)
    assert outcome.text == before
    assert len(executor.made) == count
    with pytest.raises(UserError, match="what is compared must not be chosen after them"):
        make_leaderboard(suite, options, reference="sp")


def test_a_budget_ends_what_it_cannot_decide(suite: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs seem to take an hour each: after the first look there is no time for a block more."""
    monkeypatch.setattr("kdbench.until.Pace.seconds", lambda self, runs: 3600.0 * sum(map(len, runs.values())))
    outcome = run_until_decided(suite, options, 1800.0, executor=Drawn())
    assert outcome.exit_code == 0
    assert set(seeds_of(options).values()) == {3}
    text = table_of(options)
    assert "stopped early, at look 1 of 4" in text
    assert "Still open" not in text
    more = run_until_decided(suite, options, executor=Drawn())  # with more time it goes on
    assert more.exit_code == 0
    assert seeds_of(options)["sp"] > 3


def test_a_budget_that_is_over_leaves_the_last_whole_look(
    suite: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 0.0}

    class Slow(Drawn):
        def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
            clock["now"] += 100.0 if self.made else 1.0  # the second block takes longer than was thought
            if self.made:
                self.most = len(self.made) + 1
            super().run(queues, events, stop)

    for place in ("kdbench.until", "kdbench.api"):
        monkeypatch.setattr(f"{place}.time", type("Clock", (), {"monotonic": staticmethod(lambda: clock["now"])}))
    outcome = run_until_decided(suite, options, 50.0, executor=Slow())
    assert outcome.exit_code == 0
    assert outcome.counts == {"done": 12}
    assert "stopped early, at look 1 of 4" in table_of(options)


def test_changes_after_the_looks_are_told(suite: Path, options: Options, suite_file: Callable[..., Path]) -> None:
    run_until_decided(suite, options, executor=Drawn())
    suite_file(methods={label: ROWS[label] for label in ("student", "kd", "sp")}, seeds=[0, 1, 2])
    _, text = make_leaderboard(suite, options)
    assert "rows came or went after the looks at this table were declared (rkd)" in text.lower()
    suite_file(methods=ROWS, seeds=[0, 1, 5])
    with pytest.raises(UserError, match="which must not change once scores were seen"):
        run_until_decided(suite, options, executor=Drawn())
    looks = Layout(options.results).suite("tiny").looks
    looks.write_text(json.dumps({"looks": 3}))
    with pytest.raises(UserError, match="nobody knows how often"):
        make_leaderboard(suite, options)


def test_as_a_user_types_it(kdbench: Any, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdbench.api.executor_of", lambda *_: Drawn())
    code, out, err = kdbench("run", suite, "--until-decided", "--budget", "8h")
    assert code == 0, err
    assert "Looks are declared at 3, 5, 7, 10 seeds" in err
    assert "Look at 3 seeds: " in err
    assert "Seeds are added where a comparison is open: the next look is at 5." in err
    assert "until decided" in out
    for words, text in (
        (["--budget", "8h"], "--budget goes with --until-decided"),
        (["--until-decided", "--budget", "soon"], "say it like 30m"),
        (["--until-decided", "--only", "kd"], "leave --only out"),
    ):
        code, _, err = kdbench("run", suite, *words)
        assert code == 2
        assert text in err

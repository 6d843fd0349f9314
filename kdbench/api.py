"""The same as the commands, from Python: `kdbench.run("suite.yaml") -> pandas.DataFrame`."""

import math
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from kdbench.errors import UserError, first_line, unknown
from kdbench.gathered import board_of, cells_asked, gather
from kdbench.grid.blocks import changed
from kdbench.grid.cohort import Place
from kdbench.grid.executors import Executor
from kdbench.grid.expect import expected
from kdbench.grid.plan import Plan, make_plan
from kdbench.grid.progress import Bar, clock
from kdbench.grid.recorder import Recorder
from kdbench.grid.run import run_plan
from kdbench.grid.shares import executor_of
from kdbench.grid.signals import own_interrupts, stop_signals
from kdbench.layout import Layout, SuiteFolder
from kdbench.options import Options
from kdbench.plain import several
from kdbench.report.frame import Beside, frame_of
from kdbench.report.inert import inert_board
from kdbench.report.summary import headline
from kdbench.report.table import Board, make_board
from kdbench.report.write import write_board
from kdbench.results.looks_file import read_looks
from kdbench.results.mlflow_thread import PATIENCE, Tracker, behind
from kdbench.results.other_state import other_state
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.results.store import copied, is_url
from kdbench.results.verified_file import read_verified
from kdbench.suite.cells import Only
from kdbench.suite.load import load_suite
from kdbench.suite.origin import claim
from kdbench.suite.shipped import command_of, suite_path
from kdbench.train.arithmetic import slow_precision
from kdbench.train.loop import Stopped


@dataclass
class Outcome:
    """What a run left: the table, its text, how many cells are in which state, and the signal that ended it, if any."""

    table: pd.DataFrame
    text: str
    counts: dict[str, int]
    trained: int
    signal: int | None = None
    folder: SuiteFolder | None = None  # where it lies
    board: Board | None = None

    @property
    def exit_code(self) -> int:
        if self.signal is not None:
            return 128 + self.signal
        return 1 if any(self.counts.get(s) for s in ("failed", "diverged", "missing")) else 0


def plan(suite: str | Path, **options: Any) -> Plan:
    """What `run` would do. Raises UserError when the suite is wrong. Options as for `run`."""
    with _chosen(options, "plan") as chosen:
        return _plan(Path(suite), chosen)


def run(suite: str | Path, **options: Any) -> pd.DataFrame:
    """Run a suite and return its leaderboard, one row per objective.

    Options: `data`, `results`, `device`, `only`, `plugins`, `tracking_uri`, `keep_answers`, `jobs`, `devices`,
    `executor`, `address`, as on the command line, but that `jobs` is 1 unless said otherwise. `results` may be the URL
    of a store, as for `plan`, `leaderboard` and `cells`.
    Raises UserError when the suite is wrong; cells that fail or diverge are rows of the table.
    """
    with _chosen(options, "run") as chosen:
        return run_suite(Path(suite), chosen).table


def leaderboard(suite: str | Path, **options: Any) -> pd.DataFrame:
    """The leaderboard of what is done so far; also written to the suite's results folder.

    Beside the options of `run`: `also` (other results folders), `mlflow` (a store), `reference`, `published`.
    """
    own = {k: options.pop(k) for k in ("also", "mlflow", "reference", "published") if k in options}
    with _chosen(options, "leaderboard") as chosen:
        return make_leaderboard(Path(suite), chosen, **own)[0]


def cells(suite: str | Path, **options: Any) -> pd.DataFrame:
    """One row per finished cell of a suite's results folder."""
    with _chosen(options, "leaderboard") as chosen:
        return frame_of(Records(chosen.results, load_suite(suite, chosen.plugins, models=False).name).read_all())


@contextmanager
def _chosen(given: dict[str, Any], command: str) -> Iterator[Options]:
    """The options; where `results` is the URL of a store, with a local copy of it."""
    url = given.get("results")
    with copied(url, command, partial(print, file=sys.stderr)) if is_url(url) else nullcontext(url) as results:
        yield _options({**given, "results": results} if results is not None else given)


def _options(given: dict[str, Any]) -> Options:
    paths = {k: Path(v) for k, v in given.items() if k in ("data", "results")}
    plugins = tuple(Path(p) for p in given.get("plugins", ()))
    return Options(**{**given, **paths, "plugins": plugins})


def _plan(path: Path, options: Options) -> Plan:
    with own_interrupts():
        suite = load_suite(path, options.plugins)
        cells = cells_asked(suite, read_looks(Layout(options.results).suite(suite.name)), options)
        if not cells:
            raise UserError(
                f"{path}: no cell matches --only {pattern_of(options.only)}; rows are: {', '.join(suite.objectives)}"
            )
        return make_plan(cells, options.results, options.data, suite.plugins)


def pattern_of(only: Only) -> str:
    """As it is to be read."""
    return repr(only) if isinstance(only, str) else " and ".join(map(repr, only or ()))


def make_leaderboard(
    path: Path, options: Options, also: Sequence[Path] = (), mlflow: str | None = None, **shown: Any
) -> tuple[pd.DataFrame, str]:
    """`also`: other results folders; `mlflow`: a store to take records from; `shown`: as for `make_board`."""
    path = suite_path(path)
    gathered = gather(path, options, also, mlflow)
    board, left = board_of(gathered, **shown), other_state(options.results, gathered.suite.name, gathered.cells)
    if left and not gathered.found.records:
        raise UserError(f"{left}; nothing is written. To train anew: kdbench run {path}")
    if doubled := claim(Layout(options.results).suite(board.suite), path):
        print(doubled, file=sys.stderr)
    return board.table, write_board(board, options.results / board.suite)


DEVICES = ("cpu", "gpu", "cuda", "mps", "xpu")  # those that people have; a number may follow, `cuda:1`


def choose_device(name: str) -> torch.device:
    """`auto`: a GPU if there is one; `gpu`: a GPU. Raises UserError for a device that torch does not have."""
    name = name.lower()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "gpu" and not torch.cuda.is_available():
        raise UserError("--device gpu: there is no GPU that torch can use")
    if name.partition(":")[0] not in DEVICES:
        raise UserError(f"--device {name}: {unknown('device', name, DEVICES)}")
    try:
        device = torch.device(name.replace("gpu", "cuda"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {first_line(error)}") from error
    return device


def run_suite(
    path: Path,
    options: Options,
    console: Console | None = None,
    executor: Executor | None = None,
    deadline: float = math.inf,
) -> Outcome:
    """Check, train what is not done, record it, show it in MLflow, and write the leaderboard.

    `deadline`: by time.monotonic(); what is not done by then stays missing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
        device, path = choose_device(options.device), suite_path(path)
        made = _plan(path, options)
        _check_writable(options.results)
        executor = executor or executor_of(
            made, device, options.jobs, options.devices, options.executor, options.address
        )
        folder = Layout(options.results).suite(made.name)
        todo = made.todo
        text_of_suite = path.read_text(encoding="utf-8", errors="replace")  # it may be edited meanwhile
        with Bar(len(todo), console) as bar, stop_signals(bar.say) as stop:
            for line in _first_words(made, device, executor, claim(folder, path), options.results):
                bar.say(line)
            begun, before = time.monotonic(), expected(made, device, executor, options.results, bar.measuring)
            bar.expect(before)
            if before.sure:
                bar.say(f"about {clock(before.seconds)}, by {before.about}")
            tracker = None
            if _anything_new(made) or behind(folder.path, made.records.values()):
                tracker = Tracker(made.name, options.results, options.uri, bar.say)
            ended: int | None = None
            if tracker is not None:
                tracker.describe(f"Suite `{made.name}`\n\n{fenced(text_of_suite)}")
                try:
                    place = Place(options.results, options.data, str(device), options.keep_answers)
                    recorder = Recorder(folder, tracker, bar)
                    run_plan(made, place, executor, recorder, lambda: bool(stop) or time.monotonic() > deadline)
                except Stopped:
                    ended = stop[0] if stop else None
                except BaseException:
                    tracker.close(0)
                    raise
            if before.sure and ended is None and todo:
                bar.say(f"trained in {clock(time.monotonic() - begun)}")
            board, records = _board_of(made, folder, path, options)
            text = write_board(board, folder.path)
            if tracker is not None:
                bar.now("completing MLflow")
                tracker.complete(records.values(), lambda record: folder.files_of(record["key"]))
                tracker.summary(made.name, folder.board_files(), text)
                tracker.describe(description(board, text_of_suite))
                tracker.close(2.0 if ended else PATIENCE)
    counts = Counter(records[cell.key]["status"] if cell.key in records else "missing" for cell in made.cells)
    return Outcome(board.table, text, dict(counts), len(todo), ended, folder, board)


def _check_writable(results: Path) -> None:
    """Raises UserError where nothing could be recorded, before anything is trained."""
    try:
        results.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{results} can't be made ({error.strerror}): give another folder by --results") from error


def _first_words(
    made: Plan, device: torch.device, executor: Executor, doubled: str | None, results: Path
) -> Iterator[str]:
    """What a run says before it trains. `doubled`: that another suite has this one's name."""
    yield from made.damaged
    yield " ".join([progress_line(made, device), executor.about]).strip()
    if slow := slow_precision(device, (c.train.precision for c in made.todo)):
        yield slow
    if doubled:
        yield doubled
    if left := other_state(results, made.name, made.cells):
        yield left


def _board_of(made: Plan, folder: SuiteFolder, path: Path, options: Options) -> tuple[Board, dict[str, Record]]:
    """The board of the plan's cells as they now are, and their records by key."""
    store = Records(options.results, made.name)
    records, declared = store.read_many(c.key for c in made.cells), read_looks(folder)
    notes = changed(load_suite(path, options.plugins, models=False), declared) if declared else []
    beside = Beside(notes, store.damaged, read_verified(folder, records.values()), command_of(path))
    return make_board(made.name, made.cells, records.values(), beside=beside, declared=declared), records


def description(board: Board, text_of_suite: str) -> str:
    """Of the suite's experiment in MLflow, Markdown: what came out, how to read the list, what was asked."""
    how = (
        f"A run is a student: its name begins with row and seed. Show the column `final/{board.metric.test}`; "
        "`Group by` the tag `row` gathers the seeds of a row, with their mean. The run `leaderboard` holds the whole "
        "table, with intervals and corrected tests."
    )
    return "\n\n".join([" ".join(headline(inert_board(board))), how, fenced(text_of_suite)])


def fenced(text: str) -> str:
    """YAML in Markdown: the fence is longer than any inside."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}yaml\n{text}\n{fence}"


def progress_line(made: Plan, device: torch.device) -> str:
    skipped = f", {len(made.inapplicable)} do not apply (see `kdbench plan`)" if made.inapplicable else ""
    skipped += f", {len(made.failing)} fail (see below)" if made.failing else ""
    what = f"{made.name}: {several(len(made.cells), 'cell')}, {made.num_done} done{skipped}"
    if not made.todo:
        return f"{what}; nothing to train"
    return f"{what}, {made.in_words} on {device}"


def _anything_new(made: Plan) -> bool:
    return bool(made.todo or made.failing) or any(key not in made.records for key in made.inapplicable)

"""What is shown decides nothing: closed pipes, full disks, terminals that go away, signals of a terminal."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import TINY
from rich.console import Console

from kdbench.cli import main
from kdbench.display import Display, displays
from kdbench.grid.forecast import Forecast, Piece
from kdbench.grid.progress import Bar
from kdbench.train import loop

SCRIPT = """
import sys
from kdbench import cli
from kdbench.grid import outcome, progress
from kdbench.report import plots
progress.EVERY = 0.0
outcome.Measure.profile_seconds = 0.0
plots.write_plots = lambda *a: []
sys.argv[0] = "kdbench"
cli.entry()
"""


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        raise OSError(5, "Input/output error")


@pytest.fixture
def begin():
    """`begin(suite, results)`: the `run` command in a process of its own, with these streams."""
    runs = []

    def start(suite, results, prefix=(), **streams):
        arguments = ["run", suite, "--results", results, "--device", "cpu"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        command = [*prefix, sys.executable, "-c", SCRIPT, *map(str, arguments)]
        runs.append(subprocess.Popen(command, env=environment, **streams))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.wait()


def num_done(results):
    found = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return sum(record["status"] == "done" for record in found)


def test_a_bar_whose_console_is_gone(monkeypatch):
    monkeypatch.setattr("kdbench.grid.progress.EVERY", -1.0)
    for terminal in (False, True):
        with Bar(10, Console(file=Gone(), force_terminal=terminal)) as bar:
            bar.say("a line")
            bar.now("something")
            bar.advance(1, 64)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_percent_and_time_left_stand_at_any_width(monkeypatch, width):
    """The name is cut instead."""
    clock = [100.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: clock[0])
    screen = io.StringIO()
    with Bar(200, Console(file=screen, force_terminal=True, width=width)) as bar:
        bar.now("digits · cifar_resnet20 -> cifar_resnet8(widths=[8, 8, 16, 16]) · 2 objectives · seed 0 · epoch 3/30")
        for _ in range(50):
            clock[0] += 1.0
            bar.advance(2, 64)
        assert bar.bar is not None
        bar.bar.refresh()
        text = screen.getvalue().split("\n")[-1]
    # 4 steps in the first 4 seconds, then 2 a second: 100 of 200 are left, and take 50 seconds.
    assert re.search(r" 50%.* 0:50 left", text), text


def test_the_time_left_does_not_count_the_warm_up(monkeypatch):
    """A first step of a minute says nothing of those that follow."""
    clock = [0.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: clock[0])
    bar = Bar(100, Console(file=io.StringIO()))
    clock[0] += 60.0
    bar.advance(1, 64)
    assert bar.left() == "left: ?"
    for _ in range(9):
        clock[0] += 1.0
        bar.advance(1, 64)
    assert bar.left() == "1:30 left"
    clock[0] += 30.0
    assert bar.left() == "1:30 left"  # nothing was made meanwhile: it does not grow


def test_after_the_last_step_the_time_left_goes_on(monkeypatch):
    """What is measured and written then takes time too: it is not at 100%, and the seconds are counted."""
    clock = [0.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: clock[0])
    screen = io.StringIO()
    with Bar(1, Console(file=screen, force_terminal=True, width=80)) as bar:
        bar.expect(Forecast({}, {"a": Piece(50.0, 50, after=6.0)}, start=12.0, sure=True))
        clock[0] += 50.0
        bar.advance(50, 64, "a")
        assert bar.left() == "0:12 left"
        clock[0] += 5.0
        assert bar.bar is not None
        bar.bar.refresh()
        text = screen.getvalue().split("\n")[-1]
        clock[0] += 60.0
        assert bar.left() == "0:00 left"
    assert re.search(r" 99%.* 0:07 left", text), text


def test_a_stream_that_fails_stays_caught_to_the_end(monkeypatch):
    whole = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", whole)
    with displays():
        print("one")
        print("two", file=sys.stderr)
    assert isinstance(sys.stdout, Display)
    assert sys.stderr is whole
    assert whole.getvalue() == "two\n"


def test_letters_that_a_stream_lacks():
    written = io.BytesIO()
    stream = Display(io.TextIOWrapper(written, encoding="ascii"))
    stream.write("a → b\n")
    stream.flush()
    assert written.getvalue() == b"a \\u2192 b\n"


def gone(kind):
    """A stream that fails from its first write, or its first line, on."""
    if kind == "full":
        return open("/dev/full", "w", encoding="utf-8", buffering=1)
    ours, theirs = pty.openpty() if kind == "terminal gone" else os.pipe()
    os.close(ours)
    return os.fdopen(theirs, "w", encoding="utf-8", buffering=1)


@pytest.mark.parametrize("kind", ["reader gone", "full", "terminal gone", "closed"])
def test_a_run_ends_well_whatever_becomes_of_its_output(quick_profile, suite_file, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("kdbench.grid.progress.EVERY", -1.0)
    stream = None if kind == "closed" else gone(kind)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    results = tmp_path / "results"
    assert main(["run", str(suite_file()), "--results", str(results), "--device", "cpu"]) == 0
    assert num_done(results) == 2
    if stream is not None:
        assert isinstance(sys.stdout, Display)  # or Python's last flush would fail
        with contextlib.suppress(OSError):
            stream.close()


@pytest.mark.slow  # a process of its own
def test_the_exit_code_of_a_process_whose_output_is_full(begin, suite_file, tmp_path):
    with open("/dev/full", "w", encoding="utf-8") as full:
        run = begin(suite_file(), tmp_path / "results", stdout=full, stderr=full)
    assert run.wait(300) == 0
    assert num_done(tmp_path / "results") == 2


def test_no_success_with_cells_missing_when_the_reader_goes(quick_profile, suite_file, tmp_path, monkeypatch):
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from kdbench import Method, register_method\n"
        "@register_method('bad_pipe')\nclass Bad(Method):\n"
        "    def forward(self, student, teacher, batch): raise BrokenPipeError(32, 'Broken pipe')\n",
        encoding="utf-8",
    )
    rows = {"student": TINY["methods"]["student"], "bad": {"ce": 1, "bad_pipe": 1}}
    suite, stream = suite_file(methods=rows, plugins=["bad.py"]), gone("reader gone")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["run", str(suite), "--results", str(tmp_path / "results"), "--device", "cpu"]) == 1
    with contextlib.suppress(OSError):
        stream.close()


def test_a_broken_pipe_elsewhere_is_no_success(monkeypatch, capsys):
    def command(name):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("kdbench.cli.command", command)
    assert main(["list", "methods"]) == 1
    assert "Broken pipe" in capsys.readouterr().err
    stream = gone("reader gone")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("kdbench.cli.command", lambda name: lambda given: print("x" * 10**6))  # `| head`
    assert main(["list", "methods"]) == 0
    with contextlib.suppress(OSError):
        stream.close()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(quick_profile, suite_file, tmp_path, monkeypatch, ignored):
    """SIGHUP saves and stops, unless it is ignored (`nohup`)."""
    results, step = tmp_path / "results", loop.lock_step

    def hang_up(*given):
        step(*given)
        if given[3] == (1, 2):
            os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(loop, "lock_step", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        code = main(["run", str(suite_file()), "--results", str(results), "--device", "cpu"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == (0 if ignored else 129)
    assert num_done(results) == (2 if ignored else 0)
    assert bool(list(results.rglob("*.ckpt"))) != ignored


@pytest.mark.parametrize("change", ["deleted", "broken"])
def test_a_suite_that_changes_while_it_runs(kdbench, suite_file, monkeypatch, tmp_path, change):
    from kdbench.grid.cohort import Worker

    suite, whole = suite_file(), Worker.members

    def members(self, *given):
        suite.unlink() if change == "deleted" else suite.write_text("name: [")
        return whole(self, *given)

    monkeypatch.setattr(Worker, "members", members)
    code, out, err = kdbench("run", suite)
    assert code == 0, err
    assert "Written to" in out
    assert num_done(tmp_path / "results") == 2


def test_ui_on_a_port_that_is_taken(kdbench, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *a: pytest.fail("it went on"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, out, err = kdbench("ui", "--port", server.getsockname()[1])
    assert code == 2
    assert "is in use by another program" in err
    assert "open http" not in out


def test_a_new_cohort_does_not_forget_how_slow_the_run_is(monkeypatch):
    """It begins with no steps of an earlier run, so the pace stands; where there are such, it is measured anew."""
    clock = [0.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: clock[0])
    bar = Bar(200, Console(file=io.StringIO(), width=80))
    bar.expect(Forecast(cohorts={"a": Piece(100.0, 100), "b": Piece(100.0, 100)}, sure=True))
    for _ in range(100):  # twice as long as was said
        clock[0] += 2
        bar.advance(1, 64, "a")
    bar.passed(0, "b")
    assert bar.left() == "3:11 left"  # ten seconds of the forecast count as known
    bar.passed(10, "b")
    assert bar.left() == "1:30 left"


def test_the_rate_is_that_of_the_last_minute(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("kdbench.grid.progress.time.monotonic", lambda: clock[0])
    out = io.StringIO()
    bar = Bar(10_000, Console(file=out, width=80))
    clock[0] = 600.0  # measuring, waiting
    for _ in range(100):
        clock[0] += 1
        bar.advance(2, 50)
    assert out.getvalue().splitlines()[-1].endswith(" 100 examples/s")

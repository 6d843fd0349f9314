"""What is shown decides nothing: closed pipes, full disks, terminals that go away, signals of a terminal."""

import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import TINY
from rich.console import Console

from kdbench.display import Display, displays
from kdbench.grid.progress import Bar

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


def begin(suite, results, prefix=(), **streams):
    arguments = ["run", suite, "--results", results, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.Popen([*prefix, sys.executable, "-c", SCRIPT, *map(str, arguments)], env=environment, **streams)


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


@pytest.mark.parametrize("kind", ["reader gone", "full", "closed", "terminal gone"])
def test_a_run_ends_well_whatever_becomes_of_its_output(suite_file, tmp_path, kind):
    suite, results = suite_file(), tmp_path / "results"
    if kind == "full":
        with open("/dev/full", "w", encoding="utf-8") as full:
            run = begin(suite, results, stdout=full, stderr=full)
    elif kind == "closed":
        run = begin(suite, results, prefix=["sh", "-c", 'exec "$0" "$@" >&- 2>&-'])
    elif kind == "terminal gone":
        ours, theirs = pty.openpty()
        run = begin(suite, results, stdout=theirs, stderr=theirs)
        os.close(theirs)
        os.read(ours, 10)
        os.close(ours)
    else:
        run = begin(suite, results, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        run.stdout.readline()
        run.stdout.close()
    assert run.wait(120) == 0
    assert num_done(results) == 2


def test_no_success_with_cells_missing_when_the_reader_goes(suite_file, tmp_path):
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from kdbench import Method, register_method\n"
        "@register_method('bad')\nclass Bad(Method):\n"
        "    def forward(self, student, teacher, batch): raise BrokenPipeError(32, 'Broken pipe')\n"
    )
    rows = {"student": TINY["methods"]["student"], "bad": {"ce": 1, "bad": 1}}
    run = begin(suite_file(methods=rows, plugins=["bad.py"]), tmp_path / "results", stdout=subprocess.PIPE)
    run.stdout.close()
    assert run.wait(120) == 1


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(suite_file, tmp_path, ignored):
    """SIGHUP saves and stops, unless it is ignored."""
    results = tmp_path / "results"
    suite = suite_file(train={**TINY["train"], "epochs": 40})
    prefix = ["nohup"] if ignored else []
    run = begin(suite, results, prefix=prefix, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: list[bytes] = []
    lines = threading.Thread(target=lambda: [seen.append(line) for line in run.stderr])
    lines.start()
    until = time.monotonic() + 100
    while not any(b"objectives" in line for line in seen) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGHUP)
    if ignored:
        assert run.wait(120) == 0
        assert num_done(results) == 2
    else:
        assert run.wait(60) == 129
        assert list((results / "tiny" / "checkpoints").glob("*.ckpt"))
    lines.join()


@pytest.mark.parametrize("change", ["deleted", "broken"])
def test_a_suite_that_changes_while_it_runs(kdbench, suite_file, monkeypatch, tmp_path, change):
    from kdbench.grid.cohort import Worker

    suite, begin = suite_file(), Worker.members

    def members(self, *given):
        suite.unlink() if change == "deleted" else suite.write_text("name: [")
        return begin(self, *given)

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

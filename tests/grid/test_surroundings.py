"""What a machine may do to a run: clocks that jump, few files, no temporary folder, MLflow's database locked or
damaged, kills amidst a table, a results folder that moves, little memory. The records are those of any other run.
"""

import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest
from conftest import TINY

SCRIPT = """
import os, signal, sys
from kdbench import cli, files
from kdbench.grid import outcome
from kdbench.report import plots
outcome.Measure.profile_seconds = 0.0
plots.write_plots = lambda *a: []
left, replace = int(os.environ.get("KILLED_AT", "0")), os.replace
def replaced(*names):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
files.os.replace = replaced
if damaged := os.environ.get("DAMAGED"):
    from kdbench.grid.recorder import Recorder
    finished = Recorder.finished
    def damaging(*given):
        open(damaged, "wb").write(b"no database at all" * 1000)
        finished(*given)
    Recorder.finished = damaging
sys.argv[0] = "kdbench"
cli.entry()
"""


def process(*words, few_files=0, **environment):
    given = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **environment}
    limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few_files, few_files))) if few_files else None
    command = [sys.executable, "-c", SCRIPT, *map(str, words), "--device", "cpu"]
    return subprocess.Popen(
        command, env=given, preexec_fn=limit, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def numbers(results):
    found = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {record["key"]: (record["status"], record["scores"], record["curves"]) for record in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where an undisturbed run goes."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def undisturbed(kdbench, suite_file, whole):
    if not (whole / "tiny").is_dir():
        assert kdbench("run", suite_file(), results=whole)[0] == 0
    found = numbers(whole)
    assert [status for status, *_ in found.values()] == ["done"] * 2
    return found


def test_clocks_that_jump(kdbench, suite_file, tmp_path, monkeypatch, undisturbed):
    """By years, in both directions, at every look."""
    true, true_ns, draw = time.time, time.time_ns, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: true() + draw.uniform(-2e8, 2e8))
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + draw.randrange(-(10**17), 10**17))
    assert kdbench("run", suite_file())[0] == 0
    assert numbers(tmp_path / "results") == undisturbed


@pytest.mark.slow
def test_three_processes_with_parts_of_one_suite(suite_file, tmp_path, undisturbed):
    suite, results = suite_file(), tmp_path / "results"
    runs = [process("run", suite, "--results", results, "--only", only) for only in ("student", "kd", "*")]
    assert [(run.communicate()[1].count("Traceback"), run.returncode) for run in runs] == [(0, 0)] * 3
    assert numbers(results) == undisturbed


@pytest.mark.slow
def test_few_files_and_no_temporary_folder(suite_file, tmp_path, undisturbed):
    run = process("run", suite_file(), "--results", tmp_path / "results", few_files=32, TMPDIR=str(tmp_path / "none"))
    error = run.communicate()[1]
    assert run.returncode == 0, error
    assert numbers(tmp_path / "results") == undisturbed


def test_a_limit_on_memory_that_is_too_low_is_one_line(suite_file, tmp_path):
    """As after `ulimit -v`: torch alone needs more addresses than that."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))

    command = [sys.executable, "-m", "kdbench", "run", suite_file(), "--results", tmp_path / "results"]
    given = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], env=given, preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("no memory to load the packages that it needs (")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_mlflows_database_damaged_amidst_a_run(suite_file, tmp_path, undisturbed):
    suite, results = suite_file(), tmp_path / "results"
    first = process("run", suite, "--results", results, "--only", "student")
    assert (first.communicate()[0], first.returncode) == (None, 0)
    run = process("run", suite, "--results", results, DAMAGED=str(results / "mlflow.db"))
    error = run.communicate()[1]
    assert (run.returncode, "Traceback" in error, "kdbench sync" in error) == (0, False, True), error
    assert numbers(results) == undisturbed
    (results / "mlflow.db").unlink()
    sync = process("sync", suite, "--results", results)
    assert (sync.communicate()[1], sync.returncode) == ("", 0)
    with sqlite3.connect(results / "mlflow.db") as database:
        assert database.execute("select count(*) from runs").fetchone() == (3,)  # the leaderboard has one of its own


@pytest.mark.slow
def test_mlflows_database_locked_all_the_run(kdbench, suite_file, tmp_path, monkeypatch, undisturbed):
    monkeypatch.setattr("kdbench.api.PATIENCE", 3.0)
    suite, results = suite_file(), tmp_path / "results"
    assert kdbench("run", suite, "--only", "student")[0] == 0
    hold = f"import sqlite3, time; c = sqlite3.connect({str(results / 'mlflow.db')!r}, isolation_level=None); "
    hold += "c.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, err = kdbench("run", suite)
        other.kill()
    assert (code, "Traceback" in err) == (0, False)
    assert numbers(results) == undisturbed
    assert kdbench("sync", suite)[0] == 0
    with sqlite3.connect(results / "mlflow.db") as database:
        keys = "select value from tags join runs using (run_uuid) where key = 'kdbench.key'"
        rows = [key for (key,) in database.execute(f"{keys} and lifecycle_stage = 'active'")]
    assert len([key for key in rows if not key.startswith("summary")]) == 2


@pytest.mark.long
def test_a_results_folder_that_moves(kdbench, suite_file, tmp_path, undisturbed):
    """MLflow remembers places in the process that began a run, so that is one of its own."""
    suite, moved = suite_file(), tmp_path / "elsewhere" / "moved"
    run = process("run", suite, "--results", tmp_path / "results")
    assert (run.communicate()[0], run.returncode) == (None, 0)
    moved.parent.mkdir()
    (tmp_path / "results").rename(moved)
    told = {name: (moved / "tiny" / name).read_bytes() for name in ("cells.csv", "leaderboard.csv", "leaderboard.md")}
    assert kdbench("leaderboard", suite, results=moved)[0] == 0
    assert {
        name: (moved / "tiny" / name).read_bytes() for name in told
    } == told  # `run` and `leaderboard` tell the same
    assert "nothing to train" in kdbench("run", suite, results=moved)[2]
    assert "2 were there" in kdbench("sync", suite, results=moved)[1]
    more = suite_file("more.yaml", seeds=[0, 1])
    assert kdbench("run", more, results=moved)[0] == 0
    assert len(numbers(moved)) == 4
    assert "4 were there" in kdbench("sync", more, results=moved)[1]
    store = f"sqlite:///{moved / 'mlflow.db'}"
    assert kdbench("leaderboard", suite, "--from-mlflow", store, results=tmp_path / "new")[0] == 0
    assert (tmp_path / "new" / "tiny" / "leaderboard.csv").read_bytes() == told["leaderboard.csv"]
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_leaderboard_that_is_killed_leaves_whole_files(kdbench, suite_file, tmp_path, undisturbed):
    suite, results = suite_file(), tmp_path / "results"
    assert kdbench("run", suite)[0] == 0

    def files():
        return {path.name: path.read_bytes() for path in (results / "tiny").glob("[a-z]*.*")}

    before = files()
    next((results / "tiny" / "records").glob("*.json")).unlink()  # the next table is another one
    seen = []
    for moment in (2, 4, 6):
        run = process("leaderboard", suite, "--results", results, KILLED_AT=str(moment))
        run.communicate()
        assert run.returncode == -signal.SIGKILL
        seen.append(files())
    assert kdbench("leaderboard", suite)[0] == 0
    after = files()
    assert before["leaderboard.md"] != after["leaderboard.md"]
    for found in seen:
        assert all(content in (before[name], after[name]) for name, content in found.items())


@pytest.mark.slow
def test_memory_does_not_grow_from_cohort_to_cohort(kdbench, suite_file, monkeypatch):
    from kdbench.grid.cohort import Worker

    run, sizes = Worker.run, []

    def measured(self, cells):
        run(self, cells)
        sizes.append(psutil.Process().memory_info().rss / 2**20)

    monkeypatch.setattr(Worker, "run", measured)
    rows = {**TINY["methods"], "crd": {"ce": 1, "crd": {"weight": 0.8, "negatives": 64, "dim": 8}}}
    suite = suite_file(seeds=list(range(16)), methods=rows, train={**TINY["train"], "epochs": 1})
    assert kdbench("run", suite)[0] == 0
    first, last = sum(sizes[4:8]) / 4, sum(sizes[-4:]) / 4
    print([round(size) for size in sizes])
    assert last - first < 20, sizes  # MiB in a dozen cohorts

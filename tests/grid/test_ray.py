"""Cohorts on Ray: the parts with a stand-in for Ray that runs everything at once; a real cluster in the slow tests."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import TINY

import kdbench as package
from kdbench.grid.cohort import Place
from kdbench.grid.executors import Job
from kdbench.grid.on_ray import OnRay
from kdbench.grid.parcel import News, packed, put
from kdbench.grid.ray_cluster import capacity, connected, lacking
from kdbench.method.register import METHODS
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite

KDBENCH = [sys.executable, "-m", "kdbench"]


class Ref(SimpleNamespace):
    __hash__ = object.__hash__


class Stub:
    """`f.remote(...)` of Ray's, done at once; an exception is kept for `get`."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def remote(self, *given: Any) -> Any:
        try:
            made = self.call(*given)
        except Exception as error:
            return Ref(error=error)
        return Ref(value=made) if not isinstance(self.call, type) else Actor(made)


class Actor:
    def __init__(self, of: Any) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Stub:
        return Stub(getattr(self.of, name))


class Died(Exception):
    """As Ray's errors."""


def get(ref: Any) -> Any:
    if hasattr(ref, "error"):
        raise ref.error
    return ref.value


def node(alive=True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.fixture
def ray(monkeypatch):
    """A Ray of one CPU."""
    stub = SimpleNamespace(
        init=lambda **given: None, shutdown=lambda: None, get=get, nodes=lambda: [node(CPU=1.0, memory=1e12)],
        remote=lambda **needs: Stub, wait=lambda refs, **how: (refs, []),
        exceptions=SimpleNamespace(RayError=Died, RayTaskError=Died),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "this"),
        util=SimpleNamespace(scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *a, **k: a)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return stub


def told(results: Path) -> dict[str, Any]:
    """Key -> what a record says, times and places aside."""
    found = {}
    for path in results.glob("*/records/*.json"):
        record = json.loads(path.read_bytes())
        for part in ("cost", "profile", "finished", "teacher_train_seconds", "seal"):
            record.pop(part, None)
        found[record["key"]] = record
    return found


def test_records_are_those_of_this_process(ray, kdbench, suite_file, tmp_path, one_thread):
    suite = suite_file(seeds=[0, 1], train={"epochs": 1, "batch_size": 256, "lr": 0.05, "augment": "crop"})
    assert kdbench("run", suite, "--executor", "here", results=tmp_path / "here")[0] == 0
    code, _, err = kdbench("run", suite, "--executor", "ray", "--jobs", 1, results=tmp_path / "ray")
    assert code == 0, err
    assert told(tmp_path / "ray") == told(tmp_path / "here")
    [weights] = (tmp_path / "here").glob("teachers/*.safetensors")
    assert (tmp_path / "ray" / "teachers" / weights.name).read_bytes() == weights.read_bytes()
    assert not list((tmp_path / "ray").rglob("*.ckpt"))


def test_a_task_that_dies_goes_on_elsewhere_and_fails_in_the_end(ray, kdbench, suite_file, tmp_path, monkeypatch):
    calls = []

    def dies(*given):
        calls.append(given)
        raise Died("the node was lost\nand much more")

    monkeypatch.setattr("kdbench.grid.on_ray.train", dies)
    code, _, err = kdbench("run", suite_file(), "--executor", "ray")
    assert code == 1
    assert "Died: the node was lost; it goes on elsewhere" in err
    assert len(calls) == 6  # the cohort twice, then each of its two cells twice
    assert {r["reason"] for r in told(tmp_path / "results").values()} == {"Died: the node was lost, twice"}


def test_a_node_without_the_data_is_named(ray, kdbench, suite_file, tmp_path, monkeypatch):
    monkeypatch.setattr("kdbench.grid.ray_node.digest_of", lambda *given: "other")
    assert kdbench("run", suite_file(), "--executor", "ray")[0] == 1
    reasons = {r["reason"] for r in told(tmp_path / "results").values()}
    assert all(reason.startswith("node ") and "data set digits" in reason for reason in reasons)


def test_without_ray_one_line_names_the_extra(kdbench, suite_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = kdbench("run", suite_file(), "--executor", "ray")
    assert code == 2
    assert err.strip().splitlines()[-1] == "--executor ray needs Ray: pip install 'kdbench[ray]'"
    code, _, err = kdbench("run", suite_file(), "--executor", "ray", "--devices", 2)
    assert (code, "leave --devices" in err) == (2, True)


def test_nothing_needs_ray_that_does_not_ask_for_it():
    code = "import sys, kdbench, kdbench.grid.shares, kdbench.commands.run; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_files_come_back_as_they_change(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    put({"teachers/a.json": b"{}"}, there)
    news = News(there)
    assert news.look() == {}
    put({"teachers/b.json": b"1", "teachers/b.safetensors": b"2"}, there)
    (there / "teachers" / ".b.lock").write_text("")
    assert list(news.look()) == ["teachers/b.safetensors", "teachers/b.json"]  # weights before the word that they are
    assert news.look() == {}
    for name in ("../b.json", "/tmp/b.json", "teachers/b.py"):
        with pytest.raises(ValueError, match="is no file of a results folder"):
            put({name: b""}, here)


def test_a_plugin_travels_with_what_it_imports_from_beside_itself(suite_file, tmp_path):
    """In a process that knows nothing of the folder they came from it is the same code: the keys' hash is the same."""
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (home / "travels.py").write_text(
        "from kdbench import Method, register_method\nfrom helper_that_travels import HALF\n"
        "import parts.more\nimport json\n\n\n@register_method('travels')\nclass Travels(Method):\n"
        "    def forward(self, student, teacher, batch):\n        return {'t': HALF * student.logits.mean()}\n"
    )
    (home / "helper_that_travels.py").write_text("from parts.more import ONE\n\nHALF = ONE / 2\n")
    (home / "parts" / "__init__.py").write_text("")
    (home / "parts" / "more.py").write_text("ONE = 1.0\n")
    (home / "unused.py").write_text("raise ValueError\n")
    suite = suite_file(methods={"travels": {"ce": 1, "travels": 1}})
    plugins = (home / "travels.py",)
    cells = cells_of(load_suite(suite, plugins))
    job = Job((cells[0],), plugins, Place(tmp_path / "results", tmp_path, "cpu"))
    parcel = pickle.loads(pickle.dumps(packed(job, 1)))
    code, files = (
        METHODS.code("travels"),
        ["travels.py", "helper_that_travels.py", "parts/__init__.py", "parts/more.py"],
    )
    assert [[*names] for names in parcel.plugins] == [files]
    shutil.rmtree(home)
    [there] = parcel.unpack(tmp_path / "node" / "results", "cpu").plugins
    load = (
        "import sys, pathlib; from kdbench.suite.plugins import load_plugin;"
        "from kdbench.method.register import METHODS;"
        "load_plugin(pathlib.Path(sys.argv[1])); print(METHODS.code('travels'))"
    )
    done = subprocess.run([sys.executable, "-c", load, str(there)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == code != "", done.stderr


@pytest.mark.long
def test_a_cohort_that_begins_with_students(ray, kdbench, suite_file, tmp_path, one_thread):
    """They travel, and so does the file that a converted student is."""
    plain = TINY["pairs"][0]
    pruned = {"from": {"label": "student"}, "transforms": [{"prune": {"share": 0.5}}]}
    pairs = [plain, {**plain, "student": {**plain["student"], **pruned}}]
    train = {"epochs": 1, "batch_size": 256, "lr": 0.05, "augment": "crop"}
    methods = {"student": {"ce": 1}, "int8": {"ce": 1, "then": ["int8"]}}
    suite = suite_file(pairs=pairs, train=train, methods=methods)
    code, _, err = kdbench("run", suite, "--executor", "ray", "--jobs", 1)
    assert code == 0, err
    found = told(tmp_path / "results")
    assert {record["status"] for record in found.values()} == {"done"}
    converted = {key for key, record in found.items() if record.get("delivered")}
    assert converted
    assert {path.stem for path in tmp_path.glob("results/tiny/students/*.onnx")} == converted


def test_how_many_tasks_have_room():
    needs = {"num_cpus": 2, "memory": 1e9}
    assert capacity([node(CPU=9.0, memory=1e10)], needs) == 4
    assert (
        capacity([node(CPU=3.0, memory=1e10), node(CPU=5.0, memory=1e10), node(False, CPU=9.0, memory=1e10)], needs)
        == 3
    )
    assert capacity([node(CPU=9.0, memory=1.5e9)], needs) == 1
    assert capacity([node(CPU=9.0, memory=1e10)], {**needs, "num_gpus": 1}) == 1  # one that waits for a node with it


def test_what_no_node_can_hold_is_told(ray, kdbench, suite_file, monkeypatch):
    small = [node(CPU=1.0, memory=4e9), node(CPU=1.0, memory=8e9)]
    assert lacking(small, {"num_cpus": 1, "memory": 5e9}) == ""
    words = lacking(small, {"num_cpus": 2, "memory": 1.5e9})
    assert words == "no node has what a task asks for, 2 CPU, 1.5 GB (the most that one has: 1 CPU, 8.0 GB)"
    ray.nodes = lambda: [node(CPU=0.0, memory=1e12)]
    code, _, err = kdbench("run", suite_file(), "--executor", "ray")  # on a Ray of this machine none will come
    assert (code, "no node has what a task asks for" in err) == (2, True)
    lines = []
    OnRay(2, 1.0, torch.device("cpu"), "there:1").check_nodes([node(CPU=1.0, memory=8e9, GPU=1.0)], Said(lines))
    assert "waiting for one that has" in lines[0]
    assert "the cluster has GPUs" in lines[1]


class Said(SimpleNamespace):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(say=lines.append)


def test_the_loss_of_the_cluster_is_one_line(ray, kdbench, suite_file):
    def wait(refs, **how):
        raise Died("The actor is unavailable")

    ray.wait = wait
    code, _, err = kdbench("run", suite_file(), "--executor", "ray")
    assert code == 1
    assert "the Ray cluster is lost (Died: The actor is unavailable); the same command goes on" in err
    assert "Traceback" not in err


def test_signals_stay_ours(ray):
    """Ray takes SIGTERM when it starts, and would end the run with nothing saved."""
    before = signal.getsignal(signal.SIGTERM)
    ray.init = lambda **given: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with connected(None):
            assert signal.getsignal(signal.SIGTERM) == before
    finally:
        signal.signal(signal.SIGTERM, before)


# --- a real cluster ---

LOOPBACK = {
    **os.environ, "OMP_NUM_THREADS": "1", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}  # fmt: skip
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = dict(num_cpus=1, object_store_memory=80_000_000, memory=4_000_000_000)
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
node = cluster.add_node(**small)
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "lose":
        cluster.remove_node(node, allow_graceful=False)
        node = cluster.add_node(**small)
        print("lost", flush=True)
cluster.shutdown()
"""


@pytest.fixture
def cluster():
    """Two nodes on loopback, in a process of their own; `lose()` removes one with all that runs there."""
    command = [sys.executable, "-W", "ignore", "-c", CLUSTER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=LOOPBACK, text=True, **pipes)
    address = process.stdout.readline().strip()

    def lose():
        process.stdin.write("lose\n")
        process.stdin.flush()
        assert process.stdout.readline() == "lost\n"

    with process:
        yield SimpleNamespace(address=address, lose=lose)
        process.stdin.close()
        process.wait(60)


def begin(suite, results, *words):
    command = [*KDBENCH, "run", str(suite), "--results", str(results), "--device", "cpu", *map(str, words)]
    return subprocess.Popen(command, env=LOOPBACK, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def working():
    """The processes on any node that train."""
    found = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if "ray::train" in line]


@pytest.mark.slow
def test_a_cluster_that_loses_workers_a_node_and_its_driver(cluster, suite_file, tmp_path, one_thread):
    """All records arrive, none twice, and they are those of a run that nothing disturbed."""
    suite = suite_file(seeds=[0, 1, 2, 3, 4, 5], train={"epochs": 6, "batch_size": 256, "lr": 0.05, "augment": "crop"})
    results, words = tmp_path / "ray", ("--executor", "ray", "--address", cluster.address, "--jobs", 2)
    with begin(suite, results, *words) as run:
        os.kill(until(working)[0], signal.SIGKILL)
        until(lambda: list(results.glob("tiny/records/*.json")))
        cluster.lose()
        until(lambda: len(list(results.glob("tiny/records/*.json"))) >= 4)
        run.kill()
        assert "it goes on elsewhere" in run.stdout.read()
    kept = {path.name: path.stat().st_mtime_ns for path in results.glob("tiny/records/*.json")}
    with begin(suite, results, *words) as again:
        said = again.communicate(timeout=400)[0]
        assert again.returncode == 0, said
    records = told(results)
    assert len(records) == 12
    assert {record["status"] for record in records.values()} == {"done"}
    assert all((results / "tiny/records" / name).stat().st_mtime_ns == when for name, when in kept.items())
    torch.set_num_threads(1)
    package.run(suite, results=tmp_path / "here", device="cpu")
    whole = told(tmp_path / "here")
    assert {key: record["curves"] for key, record in records.items()} == {k: r["curves"] for k, r in whole.items()}


@pytest.mark.slow
def test_here_processes_and_ray_leave_the_same_records(suite_file, tmp_path):
    """On a Ray of its own, which listens on the loopback interface alone."""
    suite = suite_file(seeds=[0, 1])
    for name, words in (("here", ["--executor", "here"]), ("two", ["--jobs", 2]), ("ray", ["--executor", "ray"])):
        run = begin(suite, tmp_path / name, *words)
        if name == "ray":
            until(working)
            assert listening("ray") <= {"127.0.0.1", "[::ffff:127.0.0.1]"}
        said = run.communicate(timeout=300)[0]
        assert run.returncode == 0, said
    assert told(tmp_path / "here") == told(tmp_path / "two") == told(tmp_path / "ray")
    assert len(told(tmp_path / "ray")) == 4


@pytest.mark.slow
def test_sigterm_saves_the_state_and_what_waits_does_not_hold_the_end(suite_file, tmp_path):
    """On a Ray of its own."""
    suite = suite_file(train={"epochs": 200, "batch_size": 64, "lr": 0.05, "augment": "crop"}, seeds=[0, 1])
    run = begin(suite, tmp_path / "ray", "--executor", "ray", "--jobs", 1)
    until(working)
    time.sleep(10)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[0]
    assert run.returncode == 143, said
    assert "stopping after this step" in said
    assert "Stopped; go on with: kdbench run" in said
    assert list((tmp_path / "ray").rglob("*.ckpt"))


def listening(name: str) -> set[str]:
    """Addresses at which processes of Ray's listen."""
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
    own = [line.split() for line in lines if any(of in line for of in ("raylet", "gcs_server", '"ray::'))]
    assert own
    return {words[3].rpartition(":")[0] for words in own}

"""A plugin that raises, at whatever door, is one row's failure: the others' records are as without it."""

import json
import shutil

import pytest
from conftest import TINY

from kdbench.method.register import METHODS

HEAD = """
import torch
from kdbench import Method, register_method

@register_method("{name}", needs="logits")
class Bad(Method):
    def __init__(self):
        super().__init__()
        {init}
    def build(self, student, teacher, task):
        {build}
    def forward(self, student, teacher, batch):
        {forward}
        return {{"bad": 0.0 * student.logits.sum()}}
"""
MORE = {
    "prepare": "    def prepare(self, epoch_of):\n        {}\n",
    "infer": "    def infer(self, student):\n        {}\n",
    "state": "    def get_extra_state(self):\n        {}\n    def set_extra_state(self, state): pass\n",
    "combine": "    def combine(self, params, task, distilled, optimizer):\n        {}\n",
}
EXIT, STOP, CTRL_C = "raise SystemExit(0)", "raise GeneratorExit('away')", "raise KeyboardInterrupt"
DOORS = [
    ("init", EXIT, "SystemExit: 0"),
    ("init", "raise TypeError('no')", "TypeError: no"),
    ("build", CTRL_C, "KeyboardInterrupt"),
    ("build", "self.x = float(teacher.logits.sum())", "meta"),
    ("build", "torch.set_default_dtype(torch.float64)", "default dtype from torch.float32 to torch.float64"),
    ("prepare", EXIT, "SystemExit: 0"),
    ("prepare", STOP, "GeneratorExit: away"),
    ("forward", EXIT, "SystemExit: 0"),
    ("forward", CTRL_C, "KeyboardInterrupt"),
    ("combine", "return None", "TypeError"),
    ("combine", EXIT, "SystemExit: 0"),
    ("infer", "return None", "infer gave None, not logits"),
    ("infer", "return student.logits[:, :3]", "infer gave [500, 3], not logits of shape [500, 10]"),
    ("infer", STOP, "GeneratorExit: away"),
    ("state", "raise ValueError('no state')", "no state"),
    ("forward", "torch.empty(2**46)", "can't allocate memory"),
    ("forward", "self.n = getattr(self, 'n', 0) + 1; torch.empty(2**46 if self.n > 3 else 1)", "can't allocate memory"),
    ("forward", "bytes(2**50)", "MemoryError"),
    ("prepare", "bytes(2**50)", "MemoryError"),
    ("build", "torch.empty(2**46, device='cpu')", "can't allocate memory"),
    ("infer", "bytes(2**50)", "MemoryError"),
]


def plugin(folder, door, code):
    name = f"bad_{abs(hash((door, code)))}"
    parts = {"init": "pass", "build": "pass", "forward": "pass"}
    text = HEAD.format(name=name, **{**parts, **({door: code} if door in parts else {})})
    text += MORE[door].format(code) if door in MORE else ""
    if door == "combine":  # a rule gives no loss of its own
        text = text.replace('{"bad": 0.0 * student.logits.sum()}', "{}")
    path = folder / f"{name}.py"
    path.write_text(text)
    return name, path


@pytest.fixture(autouse=True)
def _forget():
    before = dict(METHODS.entries)
    yield
    METHODS.entries.clear()
    METHODS.entries.update(before)


def records(results):
    found = (json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json"))
    return {record["label"]: record for record in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(kdbench, suite_file, folder, tmp_path):
    """The records of a run of good rows alone; its teacher is at hand in each test's results."""
    if not records(folder):
        assert kdbench("run", suite_file(), results=folder)[0] == 0
    shutil.copytree(folder / "teachers", tmp_path / "results" / "teachers")
    return records(folder)


@pytest.mark.parametrize(("door", "code", "reason"), DOORS)
def test_it_fails_alone(kdbench, suite_file, tmp_path, whole, monkeypatch, door, code, reason):
    monkeypatch.setattr("kdbench.grid.cohort.Worker.checkpoint_every", 0.0)
    name, path = plugin(tmp_path, door, code)
    row = {"ce": 0.1, "kd": 0.9, name: 1} if door == "combine" else {"ce": 1, name: 1}
    suite = suite_file(methods={"student": TINY["methods"]["student"], "bad": row, "kd": TINY["methods"]["kd"]})
    code, out, err = kdbench("plan", suite, "--plugin", path)
    assert code == 0
    if door in ("init", "build"):
        assert "fails: digits" in out
        assert "· bad: " in out
    code, out, err = kdbench("run", suite, "--plugin", path)
    assert code == 1
    assert "Traceback" not in err
    found = records(tmp_path / "results")
    assert found["bad"]["status"] == "failed"
    assert reason in found["bad"]["reason"]
    for label, record in whole.items():
        assert found[label]["status"] == "done"
        assert (found[label]["scores"], found[label]["curves"]) == (record["scores"], record["curves"])


THREADS = {
    "that are waited for": "t = [Thread(target=torch.rand, args=(99,)) for _ in range(4)]; [x.start() for x in t]; "
    "[x.join() for x in t]",
    "that draw on": "Thread(target=lambda: [torch.rand(9) for _ in range(3000)]).start()",
    "that write later": "Timer(0.05, lambda: torch.manual_seed(1)).start()",
    "of a pool": "self.pool = ThreadPoolExecutor(2); self.pool.submit(torch.rand, 99)",
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.long if kind == "of a pool" else ()) for kind in THREADS]
)
def test_threads_reach_nobody(kdbench, suite_file, folder, tmp_path, monkeypatch, kind):
    """The students have drop-out, which draws from torch's generator; `bad` is not the first in its cohort."""
    monkeypatch.setattr("kdbench.train.threads.PATIENCE", 5.0 if kind == "that draw on" else 0.3)
    net = {"model": "resnet10t", "channels": [2, 4, 4, 4], "stem_width": 4, "drop_rate": 0.3}
    pairs = [{"teacher": TINY["pairs"][0]["teacher"], "student": net}]
    name, path = plugin(tmp_path, "forward", THREADS[kind])
    head = "from concurrent.futures import ThreadPoolExecutor\nfrom threading import Thread, Timer\n"
    path.write_text(head + path.read_text())
    good, kd = {"student": {"ce": 1}}, {"kd": TINY["methods"]["kd"]}
    without, among = folder / "dropping", tmp_path / "among"
    if not without.is_dir():  # of all kinds
        assert kdbench("run", suite_file(pairs=pairs, methods=good | kd), results=without)[0] == 0
    suite = suite_file(pairs=pairs, methods={**good, "bad": {"ce": 1, name: 1}, **kd}, plugins=[str(path)])
    assert kdbench("run", suite, results=among)[0] == 0
    ours, theirs = records(among), records(without)
    for label in ("student", "kd"):
        assert (ours[label]["scores"], ours[label]["curves"]) == (theirs[label]["scores"], theirs[label]["curves"])


def test_one_that_reaches_into_others_unseen_at_first(kdbench, suite_file, tmp_path, whole):
    """Nobody can say since when: the others start again."""
    act = "self.n = getattr(self, 'n', 0) + 1\n        if self.n > 3: teacher.logits.data.zero_()"
    name, path = plugin(tmp_path, "forward", act)
    rows = {"student": TINY["methods"]["student"], "bad": {"ce": 1, name: 1}, "kd": TINY["methods"]["kd"]}
    code, _, err = kdbench("run", suite_file(methods=rows), "--plugin", path)
    assert code == 1
    assert "bad wrote into what all share: the others start again" in err
    found = records(tmp_path / "results")
    assert "wrote into the teacher's logits" in found["bad"]["reason"]
    for label, record in whole.items():
        assert (found[label]["scores"], found[label]["curves"]) == (record["scores"], record["curves"])

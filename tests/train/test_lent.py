"""A member that reaches for what is not its own fails, and the others end with the bits of a run without it."""

import math
import os
import threading

import pytest
import torch
import yaml
from conftest import TEACHER, TINY, few_digits

from kdbench.data import Splits
from kdbench.method.contract import Method
from kdbench.method.register import METHODS, register_method
from kdbench.nets import build_net
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.spec import ModelSpec
from kdbench.train.evaluation import Judged, evaluate
from kdbench.train.lent import SAMPLE, Undermined, sample, settings_now
from kdbench.train.loop import Cohort, train_cohort
from kdbench.train.start import start_trial
from kdbench.train.teacher import freeze
from kdbench.train.teacher_cache import DiskBudget, TeacherCache

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
RECIPE = {"epochs": 2, "batch_size": 128, "lr": 0.05, "augment": "crop_flip"}
ROWS = {"kd": {"ce": 0.1, "kd": 0.9}, "simkd": {"ce": 1, "simkd": 1}, "mixed": {"function_matching": 1}}


def leave(error):
    raise error


def behind(tensor):
    tensor.numpy()[...] = 0


WRITES = {
    "images": (lambda s, t, b: b.inputs.zero_(), "the batch's inputs"),
    "images behind": (lambda s, t, b: b.inputs.data.zero_(), "the batch's inputs"),
    "target": (lambda s, t, b: b.target.zero_(), "the batch's target"),
    "index": (lambda s, t, b: b.index.zero_(), "the batch's index"),
    "progress": (lambda s, t, b: b.progress.fill_(1), "the batch's progress"),
    "view": (lambda s, t, b: b.views["mixed"].zero_(), "the batch's views mixed"),
    "views": (lambda s, t, b: b.views.clear(), "a table of tensors"),
    "logits": (lambda s, t, b: t.logits.mul_(0), "the teacher's logits"),
    "logits behind": (lambda s, t, b: behind(t.logits), "the teacher's logits"),
    "other storage": (lambda s, t, b: setattr(t.logits, "data", torch.zeros(3)), "the teacher's logits"),
    "map behind": (lambda s, t, b: t.features[0].data.mul_(1.01), "the teacher's features 0"),
    "map": (lambda s, t, b: t.features[0].zero_(), "the teacher's features 0"),
    "classifier": (lambda s, t, b: t.classifier[0].data.zero_(), "the teacher's classifier 0"),
    "images, then raises": (lambda s, t, b: leave(ValueError(b.inputs.zero_())), "the batch's inputs"),
}
SETTINGS = {
    "threads": (lambda: torch.set_num_threads(2), "number of threads from 1 to 2"),
    "gradient": (lambda: torch.set_grad_enabled(False), "gradient mode from True to False"),
    "dtype": (lambda: torch.set_default_dtype(torch.float64), "default dtype from torch.float32 to torch.float64"),
    "device": (lambda: torch.set_default_device("meta"), "default device from None to meta"),
    "deterministic": (lambda: torch.use_deterministic_algorithms(True), "deterministic algorithms"),
    "denormal": (lambda: torch.set_flush_denormal(True), "denormal"),
    "folder": (lambda: os.chdir("/"), "working folder"),
    "onednn": (lambda: torch._C._set_mkldnn_enabled(False), "oneDNN"),
}
RAISES = {
    "SystemExit": (lambda: leave(SystemExit(0)), "SystemExit: 0"),
    "GeneratorExit": (lambda: leave(GeneratorExit("away")), "GeneratorExit: away"),
    "KeyboardInterrupt": (lambda: leave(KeyboardInterrupt()), "KeyboardInterrupt"),
    "StopIteration": (lambda: leave(StopIteration()), "StopIteration"),
    "surrogate": (lambda: leave(ValueError("\udce9")), "ValueError"),
    "MemoryError": (lambda: leave(RuntimeError("no text")), "no text"),
}


@pytest.fixture(scope="module")
def splits(tmp_path_factory) -> Splits:
    return few_digits(tmp_path_factory.mktemp("none"))


def teacher_of(splits):
    return freeze(build_net(ModelSpec(**TEACHER), splits.task, "teacher", 0), CPU)


@pytest.fixture
def teacher(splits):
    """A new one for each test, which may write into it."""
    return teacher_of(splits)


def trial_of(cell, splits, teacher):
    return start_trial(cell, build_net(cell.student, splits.task, "student", 0), splits, teacher, CPU, None)


@pytest.fixture
def bad():
    """`bad(act, step, last)`: the method `bad` does `act(student, teacher, batch)` in its steps `step` to `last`."""

    def register(act, step=0, last=999):
        METHODS.entries.pop("bad", None)

        @register_method("bad", needs=("logits", "features", "classifier", "mixed"))
        class Bad(Method):
            def forward(self, student, teacher, batch):
                loss = 0.0 * student.logits.sum()
                self.done = getattr(self, "done", -1) + 1
                if step <= self.done <= last:
                    act(student, teacher, batch)
                return {"bad": loss}

    yield register
    METHODS.entries.pop("bad", None)


@pytest.fixture
def begin(suite_file, splits, teacher):
    def start(row):
        [cell] = cells_of(load_suite(suite_file(methods={"row": row}, train=RECIPE)))
        trial = trial_of(cell, splits, teacher)
        trial.key = str(row)
        return trial

    return start


def run(begin, splits, teacher, rows, cache=None):
    trials = {name: begin(row) for name, row in rows.items()}
    first = next(iter(trials.values()))
    train_cohort(Cohort(teacher, splits, first.train_spec, 0, cache=cache), list(trials.values()))
    return trials


@pytest.fixture(scope="module")
def alone(splits, tmp_path_factory):
    """What the others end with in a run without a bad one: label -> its curves and weights."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("alone") / "suite.yaml"
    path.write_text(yaml.safe_dump({**TINY, "methods": ROWS, "train": RECIPE}))
    cells = {cell.label: cell for cell in cells_of(load_suite(path))}
    teacher = teacher_of(splits)
    trials = {name: trial_of(cells[name], splits, teacher) for name in ROWS}
    train_cohort(Cohort(teacher, splits, cells["kd"].train, 0), list(trials.values()))
    assert {trial.status for trial in trials.values()} == {"done"}
    return {name: (trial.curves, trial.net.state_dict()) for name, trial in trials.items()}


def assert_untouched(begin, splits, teacher, alone, reason):
    before = settings_now()
    rows = {"kd": ROWS["kd"], "bad": {"ce": 1, "bad": 1}, "simkd": ROWS["simkd"], "mixed": ROWS["mixed"]}
    among = run(begin, splits, teacher, rows)
    assert settings_now() == before
    assert among["bad"].status == "failed"
    assert reason in among["bad"].reason
    among["bad"].reason.encode()
    for name, (curves, ours) in alone.items():
        assert among[name].status == "done"
        assert among[name].curves == curves
        theirs = among[name].net.state_dict()
        assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]


@pytest.mark.parametrize("kind", WRITES)
def test_what_is_lent_stays_as_it_was(bad, begin, splits, teacher, alone, kind):
    act, what = WRITES[kind]
    bad(act)
    assert_untouched(begin, splits, teacher, alone, f"wrote into {what}, which is only lent to it")


@pytest.mark.parametrize("kind", [kind for kind in WRITES if "behind" not in kind and kind != "classifier"])
def test_what_is_lent_stays_as_it_was_later(bad, begin, splits, teacher, alone, kind):
    act, what = WRITES[kind]
    bad(act, step=6)
    assert_untouched(begin, splits, teacher, alone, what)


def test_what_is_written_behind_torch_later_starts_the_others_again(bad, begin, splits, teacher):
    bad(lambda s, t, b: behind(t.logits), step=3)  # found in the last step
    with pytest.raises(Undermined, match="bad"):
        run(begin, splits, teacher, {"bad": {"ce": 1, "bad": 1}, "kd": ROWS["kd"]})
    alone = run(begin, splits, teacher, {"bad": {"ce": 1, "bad": 1}})["bad"]
    assert alone.status == "failed"
    assert "the teacher's logits" in alone.reason


@pytest.mark.parametrize("kind", [kind for kind in WRITES if "behind" in kind])
def test_what_is_written_behind_torch_in_one_step_is_found(bad, begin, splits, teacher, kind):
    """Neither the first step nor the last: what all bits are compared in."""
    act, what = WRITES[kind]
    bad(act, step=2, last=2)
    with pytest.raises(Undermined, match="bad"):
        run(begin, splits, teacher, {"bad": {"ce": 1, "bad": 1}, "kd": ROWS["kd"]})
    alone = run(begin, splits, teacher, {"bad": {"ce": 1, "bad": 1}})["bad"]
    assert alone.status == "failed"
    assert what in alone.reason
    assert alone.done == 2  # the first was made twice


@pytest.mark.parametrize("shape", [(3,), (1024,), (1025,), (64, 3, 32, 32), (2, 5000), (7, 1, 300, 1)])
@pytest.mark.parametrize("kind", ["contiguous", "channels last", "strided", "expanded", "offset"])
def test_a_sample_is_from_all_over_a_tensor(shape, kind):
    count, four = math.prod(shape), len(shape) == 4
    base = torch.zeros({"strided": 2 * count, "expanded": 1, "offset": count + 5}.get(kind, count))
    tensor = {
        "strided": lambda: base.view(*shape, 2)[..., 0],
        "expanded": lambda: base.expand(shape),
        "offset": lambda: base[5:].view(shape),
        "channels last": lambda: base.view(shape).to(
            memory_format=torch.channels_last if four else torch.preserve_format
        ),
        "contiguous": lambda: base.view(shape),
    }[kind]()
    part = sample(tensor)
    assert min(count, 4) <= part.numel() <= 8 * SAMPLE
    (base if kind == "expanded" else tensor).data.add_(1)
    assert part.min() == part.max() == 1


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_of_the_process_are_put_back(bad, begin, splits, teacher, alone, kind):
    change, what = SETTINGS[kind]
    bad(lambda *_: change())
    try:
        assert_untouched(begin, splits, teacher, alone, what)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.set_default_device(None)


@pytest.mark.parametrize("kind", RAISES)
def test_whatever_it_raises_is_its_own_end(bad, begin, splits, teacher, alone, kind):
    act, reason = RAISES[kind]
    bad(lambda *_: act())
    assert_untouched(begin, splits, teacher, alone, reason)


def test_threads_and_kept_tensors_harm_nobody(bad, begin, splits, teacher):
    kept = []

    def act(student, teacher_out, batch):
        kept.append((student, teacher_out, batch))
        thread = threading.Thread(target=lambda: torch.rand(100).sum())
        thread.start()
        thread.join()

    bad(act)
    among = run(begin, splits, teacher, {"bad": {"ce": 1, "bad": 1}, "kd": ROWS["kd"]})
    alone = run(begin, splits, teacher, {"kd": ROWS["kd"]})["kd"]
    assert among["bad"].status == "done"
    assert among["kd"].curves == alone.curves


def test_what_is_kept_on_disk_is_what_the_teacher_gave(bad, begin, splits, teacher, tmp_path):
    bad(lambda s, t, b: t.logits.zero_())
    caches = []
    for name, rows in (("with", {"bad": {"ce": 1, "bad": 1}, "kd": ROWS["kd"]}), ("without", {"kd": ROWS["kd"]})):
        caches.append(tmp_path / name)
        run(begin, splits, teacher, rows, TeacherCache(caches[-1], CPU, DiskBudget(caches[-1], 1e9)))
    one, other = ({path.name: path.read_bytes()[-10000:] for path in folder.glob("*")} for folder in caches)
    assert one
    assert one == other


def test_a_net_that_writes_into_the_test_pictures(splits, teacher):
    class Writer(torch.nn.Module):
        def forward(self, inputs):
            inputs.zero_()
            return teacher(inputs)

    first, found, last = evaluate([teacher, Writer(), teacher], splits.test, "fp32")
    assert isinstance(first, Judged)
    assert isinstance(last, Judged)
    assert first.scores == last.scores
    assert isinstance(found, Exception)
    assert "wrote into the batch's inputs" in str(found)

"""Teachers' outputs on disk: the same numbers without the teacher, and nothing that depends on the files."""

import json
import shutil

import pytest
import torch
from conftest import TINY

from kdbench.method.contract import Outputs
from kdbench.train import loop as training
from kdbench.train.teacher_cache import DiskBudget, TeacherCache, narrow

FIRST = {"student": {"ce": 1}, "cc": {"ce": 1, "cc": 1}}
LATER = {"kd": {"ce": 0.1, "kd": 0.9}, "pkt": {"ce": 1, "pkt": 30000}}
CPU = torch.device("cpu")


def outcome(record):
    return {name: record[name] for name in ("key", "status", "scores", "curves")}


@pytest.fixture
def records(tmp_path):
    def read():
        found = [json.loads(path.read_bytes()) for path in (tmp_path / "results" / "tiny" / "records").glob("*.json")]
        return {record["label"]: record for record in found}

    return read


@pytest.fixture
def asked(monkeypatch):
    """Steps in which the teacher was asked."""
    steps, forward = [], training.forward_teacher
    monkeypatch.setattr(training, "forward_teacher", lambda *a, **k: steps.append(a) or forward(*a, **k))
    return steps


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.long)])
def test_what_is_added_later_trains_without_the_teacher_to_the_same_bits(
    kdbench, suite_file, records, asked, tmp_path, precision
):
    train = {**TINY["train"], "precision": precision}
    first, whole = ({"methods": methods, "train": train} for methods in (FIRST, {**FIRST, **LATER}))
    assert kdbench("run", suite_file(**first), "--keep-answers", "1")[0] == 0
    files = sorted((tmp_path / "results" / "teacher_cache").glob("*/*.safetensors"))
    assert len(files) == train["epochs"]
    assert asked
    asked.clear()
    assert kdbench("run", suite_file(**whole), "--keep-answers", "1")[0] == 0
    assert not asked
    kept = {place: outcome(record) for place, record in records().items()}
    assert all(r["cost"]["teacher_ms"] > 0 for r in records().values() if r["label"] != "student")
    shutil.rmtree(tmp_path / "results")
    assert kdbench("run", suite_file(**whole))[0] == 0
    assert asked
    assert {place: outcome(record) for place, record in records().items()} == kept
    assert not (tmp_path / "results" / "teacher_cache").exists()


def test_what_needs_feature_maps_asks_the_teacher(kdbench, suite_file, asked):
    assert kdbench("run", suite_file(methods=FIRST), "--keep-answers", "1")[0] == 0
    steps = len(asked)
    assert kdbench("run", suite_file(methods={**FIRST, "at": {"ce": 1, "at": 10}}), "--keep-answers", "1")[0] == 0
    assert len(asked) == 2 * steps


def test_a_damaged_file_is_written_again(kdbench, suite_file, asked, records, tmp_path):
    assert kdbench("run", suite_file(methods=FIRST), "--keep-answers", "1")[0] == 0
    first, second, *_ = sorted((tmp_path / "results" / "teacher_cache").glob("*/*.safetensors"))
    sound = [first.read_bytes(), second.read_bytes()]
    first.write_bytes(sound[0][:-1] + bytes([sound[0][-1] ^ 1]))  # one bit of one number
    second.write_bytes(b"no such file")
    epochs = TINY["train"]["epochs"]
    per_epoch = len(asked) // epochs
    asked.clear()
    assert kdbench("run", suite_file(methods={**FIRST, **LATER}), "--keep-answers", "1")[0] == 0
    assert len(asked) == 2 * per_epoch
    tensors = [path.read_bytes()[-1000:] for path in (first, second)]  # the header holds seconds, which differ
    assert tensors == [content[-1000:] for content in sound]


def test_no_more_is_kept_than_there_is_room_for(kdbench, suite_file, tmp_path):
    assert kdbench("run", suite_file(methods=FIRST), "--keep-answers", "0.000001")[0] == 0
    assert not list((tmp_path / "results").glob("teacher_cache/*/*.safetensors"))
    for bad in ("-1", "nan", "much"):
        assert kdbench("run", suite_file(), "--keep-answers", bad)[0] == 2


def test_an_epoch_that_was_not_heard_from_its_beginning_is_not_written(tmp_path):
    cache = TeacherCache(tmp_path / "a", CPU, DiskBudget(tmp_path, 1e9))
    outputs = Outputs(torch.randn(4, 3))
    needs = frozenset({"logits"})
    for step in (1, 2):
        cache.get(0, step, needs, lambda: outputs)
        cache.add(step, 3, outputs, 0.1)
    assert not list(tmp_path.rglob("*.safetensors"))
    for step in range(3):
        cache.get(1, step, needs, lambda: outputs)
        cache.add(step, 3, outputs, 0.5)
    cache.open_epoch(0)
    found, saved = cache.get(1, 2, needs, pytest.fail)
    assert torch.equal(found.logits, outputs.logits)
    assert saved == pytest.approx(0.5)


def test_digits_are_kept():
    wide = torch.randn(100)
    assert narrow(wide).dtype == torch.float32
    assert narrow(wide.bfloat16().float()).dtype == torch.bfloat16
    assert torch.equal(narrow(wide.bfloat16().float()).float(), wide.bfloat16().float())

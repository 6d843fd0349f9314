"""A failure is a cell's: whatever raises becomes the end of the cells it touches, with its reason; the others go on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STUDENT, TEACHER, TINY

from kdbench.train import evaluation, loop, trial
from kdbench.vision.batches import Images

ROWS = {"student": {"ce": 1}, "kd": {"ce": 0.1, "kd": 0.9}, "sp": {"ce": 1, "sp": 100}}
OTHER: dict[str, Any] = {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}  # another teacher
PAIRS = [*TINY["pairs"], {"teacher": OTHER, "student": STUDENT}]
SHORT = {**TINY["train"], "epochs": 1}
Run = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def records(tmp_path: Path) -> Callable[[], dict[tuple[str, str], Any]]:
    """By teacher and label."""

    def read() -> dict[tuple[str, str], Any]:
        paths = (tmp_path / "results" / "tiny" / "records").glob("*.json")
        found = [json.loads(path.read_bytes()) for path in paths]
        return {(record["settings"]["teacher"]["model"]["model"], record["label"]): record for record in found}

    return read


def statuses(found: dict[tuple[str, str], Any], teacher: str) -> dict[str, str]:
    return {label: record["status"] for (model, label), record in found.items() if model == teacher}


def is_other(teacher: Any) -> bool:
    """resnet8 has fewer layers than resnet14."""
    return len(list(teacher.parameters())) < 40


def test_a_teachers_download_that_fails_takes_its_own_pair_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create = timm.create_model

    def without_network(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise ConnectionError("no route to the weights' server\nand more of it")
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", without_network)
    monkeypatch.setattr("kdbench.vision.nets.must_be_had", lambda model: None)
    pairs = [{"teacher": {**OTHER, "pretrained": True}, "student": STUDENT}, *TINY["pairs"]]
    code, out, err = kdbench("run", suite_file(pairs=pairs, train=SHORT))
    assert code == 1, err
    found = records()
    assert statuses(found, TEACHER["model"]) == {"student": "done", "kd": "done"}
    assert statuses(found, OTHER["model"]) == {"student": "failed", "kd": "failed"}
    reason = "model 'cifar_resnet8' can't be built: ConnectionError: no route to the weights' server"
    for label in ("student", "kd"):
        assert reason in found[OTHER["model"], label]["reason"]
        assert "`checkpoint:`" in found[OTHER["model"], label]["reason"]  # what to do about it
    assert reason in out  # the table tells it
    assert "| kd " in out  # and the other pair's rows
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **options: create(name, **options))
    assert kdbench("run", suite_file(pairs=pairs, train=SHORT))[0] == 0  # with a network it is tried again


def break_forward(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The teacher's forward in training raises from its `after`-th call on, where it is OTHER."""
    whole, calls = loop.forward_teacher, 0

    def broken(teacher: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        if is_other(teacher):
            calls += 1
            if calls > after:
                raise RuntimeError("the teacher stumbled")
        return whole(teacher, *arguments, **named)

    monkeypatch.setattr(loop, "forward_teacher", broken)


@pytest.mark.parametrize("after", [0, 1])
def test_a_teachers_forward_that_raises_ends_its_cohort_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    break_forward(monkeypatch, after)
    code, out, err = kdbench("run", suite_file(pairs=PAIRS[::-1], train=SHORT))
    assert code == 1, err
    found = records()
    assert statuses(found, OTHER["model"]) == {"student": "failed", "kd": "failed"}
    assert statuses(found, TEACHER["model"]) == {"student": "done", "kd": "done"}
    assert all("the teacher stumbled" in r["reason"] for r in found.values() if r["status"] == "failed")
    assert "the teacher stumbled" in out


def test_a_teacher_that_breaks_for_good_ends_its_cohort_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Already where it is asked for its predictions on the test set, before the first step."""
    whole = loop.predictions

    def broken(net: Any, *arguments: Any) -> Any:
        if is_other(net):
            raise RuntimeError("the teacher stumbled")
        return whole(net, *arguments)

    monkeypatch.setattr(loop, "predictions", broken)
    code, _, err = kdbench("run", suite_file(pairs=PAIRS[::-1], train=SHORT))
    assert code == 1, err
    found = records()
    assert statuses(found, OTHER["model"]) == {"student": "failed", "kd": "failed"}
    assert statuses(found, TEACHER["model"]) == {"student": "done", "kd": "done"}
    assert all("the teacher stumbled" in r["reason"] for r in found.values() if r["status"] == "failed")


def test_a_batch_that_raises_ends_its_cohort_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1's batches can't be made from the second one on."""
    whole = Images.epoch

    def broken(self: Images, how: Any, seed: int, *arguments: Any, **named: Any) -> Any:
        for number, batch in enumerate(whole(self, how, seed, *arguments, **named)):
            if seed == 1 and number:
                raise OSError("can't read picture 17")
            yield batch

    monkeypatch.setattr(Images, "epoch", broken)
    code, out, err = kdbench("run", suite_file(seeds=[1, 0], train=SHORT, teacher_train={"seed": 0}))
    assert code == 1, err
    assert {record["status"] for record in records().values()} == {"done"}  # of seed 0, which came last
    assert "can't read picture 17" in out


def test_an_evaluation_that_raises_ends_its_member_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = evaluation.Scores.add, []

    def broken(self: Any, *arguments: Any) -> None:
        seen.append(self)
        if self.has_teacher is False and len({id(s) for s in seen}) == 3:  # teacher, student, kd: the third
            raise ArithmeticError("no such score")
        whole(self, *arguments)

    monkeypatch.setattr(evaluation.Scores, "add", broken)
    code, out, err = kdbench("run", suite_file(methods=ROWS, train=SHORT))
    assert code == 1, err
    found = statuses(records(), TEACHER["model"])
    assert sorted(found.values()) == ["done", "done", "failed"]
    assert "ArithmeticError: no such score" in out


def test_the_data_of_an_evaluation_may_fail(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the teacher has no accuracy: its cells fail, the suite ends in order."""

    def broken(self: Images, size: int) -> Any:
        raise OSError("can't read picture 17")
        yield

    monkeypatch.setattr(Images, "in_order", broken)
    code, out, err = kdbench("run", suite_file(train=SHORT))
    assert code == 1, err
    assert statuses(records(), TEACHER["model"]) == {"student": "failed", "kd": "failed"}
    assert "can't read picture 17" in out


def scores(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    return {place: record["scores"] for place, record in found.items()}


def out_of_memory_with_several(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """The teacher's forward runs out of memory while kd and sp both need it; returns what was needed of it."""
    whole, seen = loop.forward_teacher, []

    def short(teacher: Any, batch: Any, needs: frozenset[str], *arguments: Any, **named: Any) -> Any:
        seen.append(needs)
        if len(needs) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(teacher, batch, needs, *arguments, **named)

    monkeypatch.setattr(loop, "forward_teacher", short)
    return seen


def test_out_of_memory_in_the_teachers_forward_splits_the_cohort(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Into halves until they fit, with the same scores as together."""
    suite = suite_file(methods=ROWS, train=SHORT)
    assert kdbench("run", suite)[0] == 0
    together = scores(records())
    for path in (tmp_path / "results" / "tiny" / "records").glob("*.json"):
        path.unlink()
    seen = out_of_memory_with_several(monkeypatch)
    code, _, err = kdbench("run", suite)
    assert code == 0, err
    assert "out of memory with 3 members" in err
    assert {record["cost"]["cohort_size"] for record in records().values()} == {1}
    assert max(map(len, seen)) == 2
    assert scores(records()) == together


def test_one_member_that_does_not_fit_fails_alone(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to split: it is a reason like another."""

    def short(self: Any, *arguments: Any) -> Any:
        if "kd" in {term.method.name for term in self.objective.all_terms()}:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, *arguments)

    whole = trial.Trial.step
    monkeypatch.setattr(trial.Trial, "step", short)
    code, _, err = kdbench("run", suite_file(methods=ROWS, train=SHORT))
    assert code == 1, err
    assert statuses(records(), TEACHER["model"]) == {"student": "done", "kd": "failed", "sp": "done"}
    assert "out of memory" in records()[TEACHER["model"], "kd"]["reason"]


# --- what a plugin's data set does ----------------------------------------------------------------------------------


NETS = """
import math
from torch import nn
from kdbench import register_net

class Said(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x.flatten(1))}

@register_net("many")
def many(task):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.inputs.fields[0].shape), 1000))

@register_net("said")
def said(task):
    return Said(math.prod(task.inputs.fields[0].shape), task.num_classes)
"""


def test_a_net_of_the_users_own_that_gives_no_logits(
    kdbench: Run, suite_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    pairs = [{"teacher": "cifar_resnet14", "student": name} for name in ("many", "said")]
    code, _, err = kdbench("run", suite_file(plugins=["nets.py"], pairs=pairs))
    assert code == 2
    assert "many gives logits [B, 1000]; here they must be [B, 10]" in err
    assert "said gives a dict; its forward must return logits [B, 10]" in err


DATA = '''
from pathlib import Path
import torch
from kdbench import InMemory, Splits, register_dataset, register_net
from torch import nn

class Short(InMemory):
    """Drops its last batch, but says that it has it."""

    def epoch(self, *given, **named):
        batches = list(super().epoch(*given, **named))
        yield from batches[:-1]

class Wrong(InMemory):
    """Gives no batches."""

    def epoch(self, *given, **named):
        yield from [(1, 2)] * 8

def points(kind):
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 10, generator=draw), torch.arange(500) % 3
    return kind(x + y[:, None], y)

@register_dataset("sound")
def sound(data_dir: Path) -> Splits:
    return Splits(points(InMemory), points(InMemory), 3)

@register_dataset("short")
def short(data_dir: Path) -> Splits:
    return Splits(points(Short), points(InMemory), 3)

@register_dataset("wrong")
def wrong(data_dir: Path) -> Splits:
    return Splits(points(Wrong), points(InMemory), 3)

@register_dataset("away")
def away(data_dir: Path) -> Splits:
    raise OSError("no route to the data's server")

@register_dataset("exits")
def exits(data_dir: Path) -> Splits:
    raise SystemExit(7)

@register_dataset("exits_later", info=lambda data_dir: sound(data_dir).task)
def exits_later(data_dir: Path) -> Splits:
    raise SystemExit(7)

@register_net("linear")
def linear(task) -> nn.Module:
    return nn.Linear(10, task.num_classes)
'''


def test_a_bad_data_set_fails_its_own_cells(
    kdbench: Run, suite_file: Callable[..., Path], records: Any, tmp_path: Path
) -> None:
    (tmp_path / "data.py").write_text(DATA)
    suite = suite_file(
        plugins=["data.py"],
        datasets=["short", "wrong", "away", "exits", "exits_later", "sound"],
        pairs=[{"teacher": "linear", "student": "linear"}],
        methods={"student": {"ce": 1}},
        train={"epochs": 2, "batch_size": 64, "lr": 0.05, "augment": "none"},
    )
    code, _, err = kdbench("run", suite)
    assert code == 1, err
    found = {record["dataset"]: record for record in map(json.loads, texts(tmp_path))}
    assert {name: record["status"] for name, record in found.items()} == {
        "sound": "done", "short": "failed", "wrong": "failed", "away": "failed", "exits": "failed",
        "exits_later": "failed",
    }  # fmt: skip
    for name, reason in (("short", "batches"), ("wrong", "target"), ("away", "no route"),
                         ("exits", "SystemExit: 7"), ("exits_later", "SystemExit: 7")):  # fmt: skip
        assert reason in found[name]["reason"]


def texts(folder: Path) -> list[str]:
    return [path.read_text() for path in (folder / "results" / "tiny" / "records").glob("*.json")]

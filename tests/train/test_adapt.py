"""Distil, then adapt: every trained student learns another data set, paired with the plain student's transfer."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import STUDENT, TEACHER
from safetensors.torch import load_file

from kdbench.errors import UserError
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.train.load import load_deployed

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., tuple[int, str, str]]
PARITY = '''
from dataclasses import replace
from pathlib import Path
from kdbench.data import Splits, load_splits, register_dataset

@register_dataset("parity")
def parity(data_dir: Path) -> Splits:
    """Is a digit odd?"""
    whole = load_splits("digits", {}, data_dir)
    train, test = (replace(split, targets=split.targets % 2) for split in (whole.train, whole.test))
    return Splits(train, test, 2)
'''
ROWS: dict[str, Any] = {"student": {"ce": 1}, "kd": {"ce": 0.1, "kd": 0.9}, "simkd": {"simkd": 1}}


@pytest.fixture
def adapting(tmp_path: Path, suite_file: Callable[..., Path]) -> Callable[..., Path]:
    (tmp_path / "parity.py").write_text(PARITY)

    def write(then: Any, **changes: Any) -> Path:
        return suite_file(plugins=["parity.py"], **{"methods": ROWS, "seeds": [0, 1], "then": then, **changes})

    return write


def records(results: Path) -> dict[tuple[str, str, int], Any]:
    """By data set, label and seed."""
    found = [json.loads(path.read_text()) for path in results.glob("*/records/*.json")]
    return {(record["dataset"], record["label"], record["seed"]): record for record in found}


def test_students_learn_another_data_set_afterwards(
    adapting: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    path = adapting({"dataset": "parity", "train": {"epochs": 1, "lr": 0.1}, "freeze": True})
    code, out, err = kdbench("run", path)
    assert code == 0, err
    found = records(tmp_path / "results")
    assert {key: record["status"] for key, record in found.items()} == {
        (data, label, seed): "done" for data in ("digits", "parity") for label in ROWS for seed in (0, 1)
    }
    for label in ROWS:
        first, later = found["digits", label, 0], found["parity", label, 0]
        before, after = (load_file(tmp_path / f"results/tiny/students/{r['key']}.safetensors") for r in (first, later))
        same = {name for name in after if name in before and torch.equal(before[name], after[name])}
        assert set(after) - same == {"fc.weight", "fc.bias"}  # frozen: the classifier alone is new
        assert later["settings"]["adapts"] == "digits"
        assert later["settings"]["start"] == first["key"]
    assert "parity after digits" in out
    assert "Each row's student, distilled on digits, learns these data" in out
    head = next(line for line in out.splitlines() if line.startswith("| objective") and "then parity" in line)
    assert "then parity vs student" in head
    line = next(line for line in out.splitlines() if line.startswith("| kd "))
    top = sum(found["parity", "kd", seed]["scores"]["test_top1"] for seed in (0, 1)) / 2
    assert f"{top:.2f} ±" in line
    assert len(re.findall(r"[-+]\d+\.\d\d \[", line)) >= 2  # the gain here, and the gain of the transfer
    assert "control" not in out.split("**How to read it.**")[0]
    page = (tmp_path / "results" / "tiny" / "leaderboard.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])  # type: ignore[index]
    shown = {row["objective"]: row.get("then") for row in data["pairs"][0]["rows"]}
    assert shown["kd"]["name"] == "parity"
    assert shown["kd"]["score"] == pytest.approx(top)
    assert shown["kd"]["student"]["gain"] is not None
    assert "0 to train" in kdbench("run", path)[2] or "nothing" in kdbench("run", path)[1] + kdbench("run", path)[2]


def test_fine_tuning_moves_all_weights(adapting: Callable[..., Path], kdbench: Run, tmp_path: Path) -> None:
    path = adapting({"dataset": "parity", "train": {"epochs": 1}})
    code, _, err = kdbench("run", path, "--only", "kd")
    assert code == 0, err
    found = records(tmp_path / "results")
    first, later = found["digits", "kd", 0], found["parity", "kd", 0]
    before, after = (load_file(tmp_path / f"results/tiny/students/{r['key']}.safetensors") for r in (first, later))
    assert not torch.equal(before["conv1.weight"], after["conv1.weight"])


def test_each_row_begins_with_its_own_student_and_is_paired(adapting: Callable[..., Path]) -> None:
    cells = cells_of(load_suite(adapting({"dataset": "parity", "freeze": True})))
    adapts = [cell for cell in cells if cell.adapts]
    assert len(cells) == 2 * len(adapts) == 12
    assert {(c.label, c.seed) for c in adapts} == {(c.start.label, c.start.seed) for c in adapts if c.start}
    assert [c.label for c in adapts if c.is_alone] == ["student"] * 2
    assert len({c.cohort for c in adapts}) == 2  # one a seed: all rows learn in lock-step
    plain = cells_of(load_suite(adapting(None)))
    assert [c.key for c in plain] == [c.key for c in cells if not c.adapts]  # no key of the others changes


def test_mistakes(adapting: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as caught:
        load_suite(adapting({"dataset": "parrity", "train": {"epoch": 3}, "frozen": True}))
    text = str(caught.value)
    assert "unknown data set 'parrity'; did you mean 'parity'?" in text
    assert re.search(r"then\.train\.epoch: .*epochs", text)
    assert re.search(r"then\.frozen: .*freeze", text)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"optimizer": "bogus"}, r"suite\.yaml:\d+: then\.train\.optimizer: unknown optimizer 'bogus'"),
        ({"augment": "bogus"}, r"then\.train\.augment: unknown augmentation 'bogus'"),
        ({"augment": {"mixup": -3}}, r"then\.train\.augment\.mixup: should be greater than 0"),
        ({"recipe": "crdd"}, r"then\.train\.recipe: unknown recipe 'crdd'; did you mean 'crd'"),
    ],
)
def test_its_training_is_checked_as_any(suite_file: Callable[..., Path], train: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_suite(suite_file(then={"dataset": "digits", "train": train}))


def test_it_may_have_a_recipe(suite_file: Callable[..., Path]) -> None:
    suite = load_suite(suite_file(then={"dataset": "digits", "train": {"recipe": "crd", "epochs": 230}}))
    assert suite.adapt is not None
    assert (suite.adapt[1].epochs, suite.adapt[1].batch_size) == (230, 64)  # the recipe's, not the suite's 256


VIT = {"model": "vit_tiny_patch16_224", "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 2}


@pytest.mark.long
def test_a_student_of_one_size_goes_on_in_that_one(
    suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    """A ViT has a weight for each place of a picture: larger ones are resized to those that it learnt from."""
    then = {"dataset": {"name": "digits", "size": 16}, "train": {"epochs": 1}, "freeze": True}
    pairs = [{"teacher": TEACHER, "student": student} for student in (VIT, STUDENT)]
    path = suite_file(pairs=pairs, methods={"student": {"ce": 1}}, then=then)
    sizes = {(c.student.model, c.adapts): c.student.img_size for c in cells_of(load_suite(path))}
    nets = VIT["model"], STUDENT["model"]
    assert sizes == {(nets[0], False): None, (nets[0], True): 8, (nets[1], False): None, (nets[1], True): None}
    code, out, err = kdbench("run", path)
    assert code == 0, err
    found = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/records/*.json")]
    [later] = [r for r in found if "adapts" in r["settings"] and r["settings"]["student"]["model"] == VIT["model"]]
    assert later["status"] == "done", later["reason"]
    before, after = (
        tmp_path / f"results/tiny/students/{key}.safetensors" for key in (later["settings"]["start"], later["key"])
    )
    assert torch.equal(load_file(before)["pos_embed"], load_file(after)["pos_embed"])
    assert later["inputs"]["fields"][0]["shape"][-1] == 16  # so it is delivered: it takes the larger pictures
    student = load_deployed(tmp_path / f"results/tiny/records/{later['key']}.json")
    assert student(torch.rand(2, 3, 16, 16)).shape == (2, 10)
    assert "then digits" in out


def test_a_net_of_one_s_own_that_is_of_one_size_is_told_before_anything_starts(
    suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    (tmp_path / "flat.py").write_text(
        "import math\nfrom torch import nn\nfrom kdbench import Task, register_net\n\n@register_net('flat')\n"
        "def flat(task: Task) -> nn.Module:\n    count = math.prod(task.inputs.shape)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(count, 8), nn.ReLU(), nn.Linear(8, task.num_classes))\n"
    )
    then = {"dataset": {"name": "digits", "size": 16}}
    pair = {"teacher": "flat", "student": "flat"}
    code, _, err = kdbench(
        "plan", suite_file(plugins=["flat.py"], pairs=[pair], methods={"student": {"ce": 1}}, then=then)
    )
    assert code == 2
    assert "flat of digits can't learn digits afterwards: it has another shape for 1.weight" in err


def test_students_of_classes_learn_numbers_afterwards(
    adapting: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    numbers = PARITY.replace("split.targets % 2)", "split.targets.float() / 5)").replace(
        "test, 2)", 'test, 1, metric="r2")'
    )
    path = adapting({"dataset": "parity", "train": {"epochs": 1, "lr": 0.01}}, methods={"student": {"ce": 1}})
    (tmp_path / "parity.py").write_text(numbers)
    code, _, err = kdbench("run", path, "--only", "*seed 0")
    assert code == 0, err
    record = records(tmp_path / "results")["parity", "student", 0]
    assert (record["status"], record["kind"], *record["settings"]["objective"]) == ("done", "numbers", "mse")
    assert record["scores"]["test_r2"] == record["curves"]["test_r2"][-1]

"""What a record keeps of every epoch, so that who trains it again can compare; that it costs little; its seal."""

import json
from typing import Any

import pytest
import torch

from kdbench.registry import hash_of_code
from kdbench.results.seal import is_intact
from kdbench.train.digests import digest_of


def records(folder: Any) -> dict[str, dict[str, Any]]:
    found = map(json.loads, (path.read_bytes() for path in folder.glob("*/records/*.json")))
    return {record["label"]: record for record in found}


def test_a_record_keeps_them_and_they_are_the_same_alone_and_among_others(kdbench, suite_file, tmp_path) -> None:
    for only in ("*", "kd"):
        code, _, err = kdbench("run", suite_file(), "--only", only, results=tmp_path / f"only {only}".strip("*"))
        assert code == 0, err
    both, alone = records(tmp_path / "only "), records(tmp_path / "only kd")
    assert both["kd"]["digests"] == alone["kd"]["digests"]
    for record in both.values():
        states = record["digests"]["states"]
        assert len(set(states)) == len(states) == 3  # before the first step, and after both epochs
        assert is_intact(record)
        assert not is_intact({**record, "scores": {**record["scores"], "test_top1": 99.0}})
    assert both["kd"]["digests"]["teacher"] == both["student"]["digests"]["teacher"]
    assert both["kd"]["digests"]["student"] != both["student"]["digests"]["student"]
    teacher = json.loads(next((tmp_path / "only " / "teachers").glob("*.json")).read_bytes())
    assert len(teacher["digests"]) == 3


def test_in_bf16_there_are_none(kdbench, suite_file, tmp_path) -> None:
    train = {"epochs": 1, "batch_size": 512, "lr": 0.05, "precision": "bf16"}
    assert kdbench("run", suite_file(train=train), "--only", "student")[0] == 0
    assert records(tmp_path / "results")["student"]["digests"]["states"] == []


TABLE: dict[str, Any] = {"net": {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros((), dtype=torch.int64)}, "n": [1]}


@pytest.mark.parametrize(
    "other",
    [
        {**TABLE, "n": [2]},
        {**TABLE, "net": {**TABLE["net"], "a": torch.arange(6.0).view(3, 2)}},
        {**TABLE, "net": {**TABLE["net"], "a": torch.arange(6).view(2, 3)}},
        {**TABLE, "net": {**TABLE["net"], "a": TABLE["net"]["a"].nextafter(torch.tensor(9.0))}},
        {**TABLE, "net": {"a": TABLE["net"]["a"], "c": TABLE["net"]["b"]}},
    ],
)
def test_whatever_differs_has_another_digest(other: dict[str, Any]) -> None:
    assert digest_of(other) != digest_of(TABLE)


def test_order_and_layout_count_for_nothing() -> None:
    maps = torch.rand(2, 3, 4, 4)
    same = {"net": dict(reversed(TABLE["net"].items())), "n": [1]}
    assert digest_of(dict(reversed(same.items()))) == digest_of(TABLE)
    assert digest_of({"x": maps.to(memory_format=torch.channels_last)}) == digest_of({"x": maps})


CODE = '''"""A method."""

class Mine:
    """Of mine."""

    def forward(self, x):  # in fp32
        # twice
        return f"{x} # no comment" * 2
'''


def test_a_comment_is_no_code() -> None:
    said_otherwise = CODE.replace("A method.", "The\nmethod.").replace("  # in fp32", "").replace("# twice", "#")
    assert hash_of_code(said_otherwise.encode()) == hash_of_code(CODE.encode())
    for other in (CODE.replace("* 2", "* 3"), CODE.replace("no comment", "none"), "not Python at all ("):
        assert hash_of_code(other.encode()) != hash_of_code(CODE.encode())

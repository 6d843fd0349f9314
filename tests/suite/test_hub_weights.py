"""Weights that have a name on a hub: what the name meant is in records, and another meaning is told, not averaged.

No network: the caches of torch.hub and of the Hugging Face hub are made up here, as both lay them out.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn
from torchvision import models

from kdbench.hub_cache import of_hub
from kdbench.nets import kept_weights
from kdbench.suite.spec import ModelSpec

NAME = "torchvision/shufflenet_v2_x0_5"
Run = Callable[..., tuple[int, str, str]]


def fetched(home: Path, seed: int) -> Path:
    """As torch.hub leaves the weights of `NAME` behind; other ones for another seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net: nn.Module = models.shufflenet_v2_x0_5()
    file = home / "hub" / "checkpoints" / models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "torch"


def told(results: Path) -> dict[int, Any]:
    """Seed -> what its records say of hubs."""
    records = [json.loads(path.read_bytes()) for path in results.glob("*/records/*.json")]
    return {record["seed"]: record.get("hub_weights") for record in records}


@pytest.mark.long
def test_other_weights_under_the_same_name(
    home: Path, suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path
) -> None:
    """The teacher begins with them. Keys are the same; a run that would mix both is refused, a table of both warns."""
    pairs = [{"teacher": {"model": NAME, "pretrained": True}, "student": "cifar_resnet8"}]
    made = {"pairs": pairs, "methods": {"kd": {"ce": 1, "kd": 1}}}
    file = fetched(home, 1)
    first = suite_file(seeds=[0], **made)
    assert kdbench("run", first)[0] == 0
    digests = kept_weights(ModelSpec(model=NAME, pretrained=True))
    assert told(tmp_path / "results") == {0: digests}
    [teacher] = (tmp_path / "results" / "teachers").glob("*.json")
    assert json.loads(teacher.read_bytes())["hub_weights"] == digests

    file.touch()  # that is no other file
    both = suite_file(seeds=[0, 1], **made)
    assert kdbench("plan", both)[0] == 0
    fetched(home, 2)
    code, _, err = kdbench("run", both)
    assert code == 2
    assert f"done cells began with other weights than those that are kept here now: {NAME} (rows kd)" in err
    assert told(tmp_path / "results") == {0: digests}

    elsewhere = tmp_path / "elsewhere"
    assert kdbench("run", suite_file(seeds=[1], **made), results=elsewhere)[0] == 0
    assert told(elsewhere)[1] not in (digests, None)
    assert kdbench("leaderboard", suite_file(seeds=[0, 1], **made), "--also", elsewhere)[0] == 0
    assert "differ in hub_weights" in (tmp_path / "results" / "tiny" / "leaderboard.md").read_text().replace("\\", "")

    file.unlink()  # what is not here can't be judged: a table, or a run that has nothing left to do, needs none
    assert kdbench("plan", first)[0] == 0


def test_what_a_name_on_the_hugging_face_hub_means(home: Path, tmp_path: Path) -> None:
    """The digest is that of the weights of the revision in use, whatever else lies in the cache."""
    place = tmp_path / "hf" / "models--someone--net"

    def revision(commit: str, **files: bytes) -> None:
        for name, content in files.items():
            blob = place / "blobs" / f"{commit}-{name}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(content)
            link = place / "snapshots" / commit / name.replace("_of_", "-of-").replace("_", ".")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)

    assert of_hub("someone/net") == {}
    revision("aaaa", model_safetensors=b"one", config_json=b"{}")
    first = of_hub("someone/net")
    assert [*first] == ["someone/net"]
    revision("bbbb", model_safetensors=b"one", README_md=b"a comma")
    assert of_hub("someone/net") == first  # another commit of the same weights
    revision("cccc", model_safetensors=b"two")
    assert of_hub("someone/net") != first
    parts = {"model_safetensors_index_json": b"{}", "a_of_2_safetensors": b"one"}
    revision("dddd", **parts, b_of_2_safetensors=b"two")
    whole = of_hub("someone/net")
    revision("eeee", **parts, b_of_2_safetensors=b"2")
    assert whole
    assert of_hub("someone/net") != whole


def test_who_begins_with_a_name(home: Path, tmp_path: Path) -> None:
    place = tmp_path / "hf" / "models--timm--resnet18.a1_in1k"
    (place / "snapshots" / "aaaa").mkdir(parents=True)
    (place / "snapshots" / "aaaa" / "model.safetensors").write_bytes(b"weights")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("aaaa")
    assert [*kept_weights(ModelSpec(model="resnet18", pretrained=True))] == ["timm/resnet18.a1_in1k"]
    assert kept_weights(ModelSpec(model="resnet18")) == {}
    assert kept_weights(ModelSpec(model="cifar_resnet8")) == {}
    place.rename(place.with_name("models--someone--bert"))
    assert [*kept_weights(ModelSpec(model="bert", weights="someone/bert"))] == ["someone/bert"]
    assert kept_weights(ModelSpec(model="bert", weights=str(tmp_path))) == {}  # a folder: its digest is in the key
    vit = ModelSpec(model="transformers/vit", pretrained=True, source="someone/bert")
    assert [*kept_weights(vit)] == ["someone/bert"]

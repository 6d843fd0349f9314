"""Without labels, on photographs that are streamed: a student of a teacher without a head learns more than it had."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import batches_of
from PIL import Image
from torch import nn

from kdbench.data import load_splits
from kdbench.nets import build_net
from kdbench.suite.models import ModelSpec
from kdbench.train.arithmetic import trusted
from kdbench.train.evaluation import evaluate_one
from kdbench.train.probe import Probed, linear_probe
from kdbench.vision import holding
from kdbench.vision.streamed import Streamed

pytestmark = pytest.mark.usefixtures("one_thread")
NET: dict[str, Any] = {"model": "cifar_resnet8", "widths": [8, 8, 8, 16]}
CLASSES = [(turn, waves) for turn in range(4) for waves in (2, 4)]  # stripes: how they lie, and how many


def photograph(turn: int, waves: int, draw: np.random.Generator) -> Image.Image:
    """Stripes of any colour and place, in grain; a bit turned."""
    angle, side = np.pi * (turn + draw.uniform(-0.25, 0.25)) / 4, int(draw.integers(40, 64))
    rows, columns = np.mgrid[0:side, 0:side] / side
    wave = np.sin(2 * np.pi * (waves * (rows * np.cos(angle) + columns * np.sin(angle)) + draw.uniform()))
    pixels = 128 + 50 * draw.uniform(-1, 1, 3) + wave[..., None] * draw.uniform(20, 60, 3)
    return Image.fromarray((pixels + draw.normal(0, 25, (side, side, 3))).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 + 120 JPEGs in eight classes."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 30), ("val", 15)):
        for label, about in enumerate(CLASSES):
            (root / part / f"class{label}").mkdir(parents=True)
            for place in range(count):
                photograph(*about, draw).save(root / part / f"class{label}" / f"{place}.jpg")
    return root


@pytest.mark.long
def test_a_student_learns_from_embeddings_and_features(
    kdbench: Any, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 0)
    about = {"path": str(photos), "size": 32}
    splits = load_splits("folder", {**about, "broken": "stop", "max_megapixels": None}, photos)
    assert isinstance(splits.train, Streamed)
    teacher = build_net(ModelSpec(**NET), splits.task, 0)
    trusted(teacher)  # as in training: oneDNN's narrow convolutions can end the process
    optimizer = torch.optim.SGD(teacher.parameters(), 0.1, momentum=0.9)
    for number in range(12):
        for batch in batches_of(splits.train, 32, "flip", number=number):
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(batch.inputs).logits, batch.target).backward()
            optimizer.step()
    torch.save(teacher.model.state_dict(), tmp_path / "teacher.pt")
    untrained = build_net(ModelSpec(**NET), splits.task, "student", 0)
    probe = linear_probe(untrained, splits.train, len(CLASSES), "fp32")
    before = evaluate_one(Probed(untrained, probe), splits.test, "fp32").scores["top1"]
    suite = {
        "name": "free", "datasets": [{"name": "folder", **about}], "seeds": [0], "evaluate": {"probe": "linear"},
        "pairs": [{"teacher": {**NET, "checkpoint": "teacher.pt", "num_classes": 0}, "student": NET}],
        "methods": {"student": {"ce": 1}, "embedding": {"pkt": 10000, "labels": "none"},
                    "features": {"fitnet": 1, "labels": "none"}},
        "train": {"epochs": 8, "batch_size": 32, "augment": "flip"},
    }  # fmt: skip
    (tmp_path / "free.yaml").write_text(yaml.safe_dump(suite), encoding="utf-8")
    code, out, err = kdbench("run", tmp_path / "free.yaml")
    assert code == 0, err
    found = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*/records/*.json")]
    top = {record["label"]: record["scores"]["test_top1"] for record in found}
    print(f"untrained {before:.1f}", {label: round(value, 1) for label, value in sorted(top.items())})
    assert min(top["embedding"], top["features"]) > before + 5
    assert "Read no label in training: embedding, features." in out

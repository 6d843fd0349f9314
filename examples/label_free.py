"""Distillation without labels, on scikit-learn's digits: `python examples/label_free.py [FOLDER]`, about a minute.

A net that learnt the digits gives its backbone alone. Students learn from that without a label, and are judged by a
linear probe, as is the student that learnt from labels, and one that learnt nothing.
"""

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

import kdbench
from kdbench.api import cells
from kdbench.nets import build_net
from kdbench.suite.models import ModelSpec
from kdbench.train.evaluation import evaluate_one
from kdbench.train.probe import Probed, linear_probe

TEACHER = {"model": "cifar_resnet14", "widths": [4, 4, 8, 8]}
STUDENT = {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}
ROWS = {
    "student": {"ce": 1},
    "embedding": {"pkt": 10000, "labels": "none"},
    "features": {"fitnet": 1, "labels": "none"},
}
SEEDS = [0, 1]


def distil(folder: Path, epochs: int = 8) -> pd.DataFrame:
    """Scores in percent of every row, by seed; the teacher's stand beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    common = {"datasets": ["digits"], "train": {"epochs": epochs, "batch_size": 64, "augment": "none"}}

    learning = {"pairs": [{"teacher": TEACHER, "student": TEACHER}], "methods": {"student": {"ce": 1}}, "seeds": [0]}
    suite = written(folder / "teacher.yaml", {"name": "teacher", **common, **learning, "teacher_train": {"epochs": 0}})
    kdbench.run(suite, results=folder)
    [cell] = kdbench.plan(suite, results=folder).cells

    backbone = {**TEACHER, "num_classes": 0, "checkpoint": f"teacher/students/{cell.key}.safetensors"}
    pairs = {"pairs": [{"teacher": backbone, "student": STUDENT}], "methods": ROWS, "seeds": SEEDS}
    judged = {"evaluate": {"probe": "linear", "neighbours": 20}}
    suite = written(folder / "label-free.yaml", {"name": "label-free", **common, **pairs, **judged})
    kdbench.run(suite, results=folder)
    scores = cells(suite, results=folder).sort_values(["label", "seed"])
    return scores[["label", "seed", "test_top1", "test_knn_top1", "teacher_agreement", "teacher_top1"]]


def untrained(seed: int) -> float:
    """What a probe makes of the student before its first step, in percent."""
    digits = kdbench.load_splits("digits", {}, Path())
    net = build_net(ModelSpec(**STUDENT), digits.task, "student", seed)
    probed = Probed(net, linear_probe(net, digits.train, digits.num_classes, "fp32"))
    return evaluate_one(probed, digits.test, "fp32").scores["top1"]


def written(path: Path, suite: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path


if __name__ == "__main__":
    print(distil(Path(sys.argv[1] if sys.argv[1:] else "label-free")).round(1).to_string(index=False))
    print("untrained", [round(untrained(seed), 1) for seed in SEEDS])

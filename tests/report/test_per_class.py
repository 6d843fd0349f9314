"""Gains and losses of single classes: by hand, against scipy, and nothing is claimed where nothing is."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from boards import write_leaderboard
from grids import grid, record
from PIL import Image
from scipy import stats

from kdbench.data import load_splits
from kdbench.method.contract import Outputs
from kdbench.report.frame import with_missing
from kdbench.report.per_class import class_words, per_class
from kdbench.results.merge import slim
from kdbench.train.evaluation import evaluate_one
from kdbench.vision.batches import Images


class Says(torch.nn.Module):
    """Gives every picture the class that its first pixel names."""

    def forward(self, images: torch.Tensor) -> Outputs:
        named = (images[:, 0, 0, 0] * 255).round().long()
        return Outputs(torch.nn.functional.one_hot(named, 4).float())


def test_accuracies_by_hand() -> None:
    """Class 0: two of three right; 1: none of one; 2: one of one; 3 has no picture."""
    said, target = [0, 0, 1, 2, 2], [0, 0, 0, 1, 2]
    pixels = torch.zeros(5, 2, 2, 3, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.tensor(said)
    images, net = Images(pixels, torch.tensor(target)), Says()
    judged = evaluate_one(net, images, "fp32")
    found = judged.per_class(images.targets, 4)
    assert found[:3] == pytest.approx([200 / 3, 0, 100])
    assert math.isnan(found[3])
    assert net.training
    assert judged.scores["top1"] == pytest.approx(60)


def with_classes(folder: Path, top1: dict[str, Any], seeds: int, **changes: Any) -> tuple[list[Any], list[Any]]:
    """Cells and records; `top1`: row -> [seeds, classes]."""
    _, cells = grid(folder, list(top1), seeds=seeds)
    records = []
    for cell in cells:
        values = list(map(float, top1[cell.label][cell.seed]))
        records.append(record(cell, float(np.mean(values)), test_top1_per_class=values, num_classes=len(values)))
        records[-1] |= changes
    return cells, records


def found_in(cells: list[Any], records: list[Any]) -> pd.DataFrame:
    return per_class(with_missing(records, cells), records)


def test_gains_are_paired_and_corrected(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    base = draw.normal(70, 3, (5, 3))
    kd = base + draw.normal(0, 0.5, (5, 3)) + [6, -6, 0]
    cells, records = with_classes(tmp_path, {"student": base, "kd": kd}, 5, classes=["cat", "dog|<b>", "eel"])
    found = found_in(cells, [slim(one) for one in records])
    pd.testing.assert_frame_equal(found, found_in(cells, records))
    ours = found[found["objective"] == "kd"]
    expected = stats.ttest_rel(kd, base)
    np.testing.assert_allclose(ours["p"], expected.pvalue)
    np.testing.assert_allclose(ours["low"], expected.confidence_interval().low)
    assert (ours["p_holm"] >= ours["p"]).all()
    assert found.loc[found["objective"] == "student", "gain"].isna().all()
    [text] = class_words(found).values()
    assert text.startswith("better on 1 of 3: cat +")
    assert "worse on 1 of 3: dog|<b> -" in text
    assert text.endswith("; the others not distinguishable from the student alone")
    _, markdown = write_leaderboard(cells, records, tmp_path / "out", plots=False)
    assert "By class, kd: better on 1 of 3: cat" in markdown
    assert "dog\\|&lt;b>" in markdown
    assert len(pd.read_csv(tmp_path / "out" / "per_class.csv")) == 6


def test_nothing_is_invented(tmp_path: Path) -> None:
    same = np.full((3, 2), 50.0)
    for seeds, ours in ((1, same + 9), (3, same), (3, same + 9)):  # one seed; all alike; the same gain on every seed
        cells, records = with_classes(tmp_path, {"student": same[:seeds], "kd": ours[:seeds]}, seeds)
        found = found_in(cells, records)
        assert found["p"].isna().all()
        assert class_words(found) == {}
    records[0] |= {"test_top1_per_class": None}
    records[1] |= {"status": "failed"}
    records[2] |= {"test_top1_per_class": [1.0]}  # of another number of classes
    records[3] |= {"test_top1_per_class": [None, 40.0]}  # a class without test pictures
    found = found_in(cells, [slim(one) for one in records])
    assert set(found["objective"]) == {"student", "kd"}
    assert class_words(per_class(with_missing([], cells), [])) == {}


def test_tables_without_true_differences_claim_a_class_in_at_most_5_percent(tmp_path: Path) -> None:
    """400 tables of 20 classes of 100 test pictures, 5 seeds, two nets of the same accuracy."""
    cells, records = with_classes(tmp_path, {"student": np.zeros((5, 20)), "kd": np.zeros((5, 20))}, 5)
    frame, draw, wrong = with_missing(records, cells), np.random.default_rng(1), 0
    for _ in range(400):
        for one in records:
            one["test_top1_per_class"] = draw.binomial(100, 0.7, 20).astype(float)
        found = per_class(frame, records)
        wrong += bool((found["p_holm"] < 0.05).any())
    assert wrong / 400 <= 0.05 + 1.645 * math.sqrt(0.05 * 0.95 / 400)


def test_names_of_classes(tmp_path: Path) -> None:
    for place in ("train/eel", "train/cat", "val/cat"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "0.png")
    assert load_splits("folder", {"path": str(tmp_path), "size": 32}, Path()).classes == ("cat", "eel")


def test_ten_thousand_classes(tmp_path: Path) -> None:
    """A table of them is made in seconds, names a few in words, and holds all in its CSV."""
    _, cells = grid(tmp_path, ["student", "kd"])
    draw, count = np.random.default_rng(0), 10_000
    names = [f"class {number}" for number in range(count)]
    records = []
    for cell in cells:
        mine = 50 + draw.normal(0, 1, count) + 40 * (cell.label == "kd") * (np.arange(count) < 2)
        records.append(record(cell, 70.0 + draw.normal(), num_classes=count) | {"classes": names})
        records[-1]["test_top1_per_class"] = mine.clip(0, 100).tolist()
    start = time.process_time()
    _, text = write_leaderboard(cells, [slim(made) for made in records], tmp_path / "out", plots=False)
    assert time.process_time() - start < 20  # one or two by themselves
    assert len(pd.read_csv(tmp_path / "out" / "per_class.csv")) == 2 * count
    assert max(map(len, text.splitlines())) < 5000
    assert (tmp_path / "out" / "leaderboard.html").stat().st_size < 2**20

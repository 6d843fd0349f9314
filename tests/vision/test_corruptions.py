"""Corrupted test pictures: torchvision's operations at stated strengths, always the same, worse with strength."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as of
from torchvision.transforms.v2.functional import pil_to_tensor

from kdbench.data import load_splits
from kdbench.results.records import Records
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.vision.batches import Images
from kdbench.vision.corruptions import KINDS, Corrupted, corrupted


def photographs(count: int = 12, side: int = 32) -> Images:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 6, 6, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return Images((255 * smooth).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), torch.arange(count) % 3)


def pictures(split: Any, size: int = 5) -> Tensor:
    return torch.cat([batch.inputs for batch in split.in_order(size)])


def test_every_kind_at_every_strength_once() -> None:
    found = list(corrupted(photographs()))
    assert [(kind, split.kind, split.strength) for kind, split in found] == [
        (kind, kind, strength) for kind in KINDS for strength in range(1, 6)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_get_worse_and_labels_stay(kind: str) -> None:
    images = photographs()
    clean, worse = pictures(images), []
    for strength in range(1, 6):
        split = Corrupted(images, kind, strength)
        changed = pictures(split)
        assert changed.shape == clean.shape
        assert changed.isfinite().all()
        assert changed.min() >= 0
        assert changed.max() <= 1
        assert torch.equal(pictures(split), changed)  # always in the same way
        assert torch.equal(torch.cat([batch.target for batch in split.in_order(5)]), images.targets)
        worse.append((changed - clean).square().mean().item())
    assert worse[0] > 1e-6
    assert worse == sorted(worse)
    assert torch.equal(pictures(images), clean)


@pytest.mark.long
def test_they_do_not_depend_on_the_batches_of_an_evaluation() -> None:
    """A GPU evaluates 500 pictures at a time, a CPU 55 of 224 pixels: what is drawn for them is the same."""
    images = photographs(12, 480)  # 12 of the CPU's own size
    for kind in ("noise", "elastic"):
        split = Corrupted(images, kind, 2)
        assert torch.equal(pictures(split, 500), pictures(split, 5))
    assert not torch.equal(pictures(Corrupted(images, "noise", 3), 5), pictures(Corrupted(images, "noise", 2), 5))
    assert [len(batch.target) for batch in Corrupted(photographs(30, 480), "noise", 1).in_order(500)] == [12, 12, 6]


def test_values_against_torchvision_and_by_hand(tmp_path: Path) -> None:
    images = photographs(3, 224)
    clean = pictures(images)
    assert torch.equal(pictures(Corrupted(images, "brightness", 2)), of.adjust_brightness(clean, 1.6))
    assert torch.equal(pictures(Corrupted(images, "contrast", 3)), of.adjust_contrast(clean, 0.2))
    torch.testing.assert_close(pictures(Corrupted(images, "blur", 1)), of.gaussian_blur(clean, [7, 7], [1.0, 1.0]))
    file = tmp_path / "picture.jpeg"
    Image.fromarray(images.pixels[0].numpy()).save(file, quality=7)
    assert torch.equal(pictures(Corrupted(images, "jpeg", 5))[0] * 255, pil_to_tensor(Image.open(file)).float())
    assert torch.equal(pictures(Corrupted(images, "posterize", 5)), (clean > 0.5).float() * 128 / 255)
    grey = Images(torch.full((4, 64, 64, 3), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    noisy = pictures(Corrupted(grey, "noise", 2)) - 128 / 255
    assert noisy.std().item() == pytest.approx(0.12, rel=0.02)
    assert not torch.equal(noisy[0], noisy[1])
    assert torch.allclose(pictures(Corrupted(grey, "elastic", 5)), torch.tensor(128 / 255))  # nothing to be seen


def test_elastic_moves_pixels_by_a_smooth_field() -> None:
    """A ramp from left to right shows how far each pixel was moved: by few of 224, and its neighbours alike."""
    ramp = torch.arange(224).expand(224, 224)[None, :, :, None].expand(1, 224, 224, 3)
    images = Images(ramp.to(torch.uint8).contiguous(), torch.zeros(1, dtype=torch.int64))
    moved = (pictures(Corrupted(images, "elastic", 5)) - pictures(images))[0, 0] * 255
    inner = moved[20:-20, 20:-20]
    assert 1 < inner.abs().max() < 40
    assert inner.diff(dim=0).abs().max() < inner.abs().max() / 3


def test_a_suite_that_asks_gets_the_mean_beside_the_clean_score(
    kdbench: Any, suite_file: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdbench.train.evaluation import evaluate_one
    from kdbench.train.load import load_deployed

    path = suite_file(evaluate={"corruptions": True}, methods={"student": {"ce": 1}})
    code, out, err = kdbench("run", path)
    assert code == 0, err
    [record] = Records(tmp_path / "results", "tiny").read_all()
    kinds = {name: value for name, value in record["scores"].items() if name.startswith("corrupted_")}
    assert set(kinds) == {f"corrupted_{kind}_top1" for kind in KINDS}
    mean = record["scores"]["test_corrupted_top1"]
    assert mean == pytest.approx(sum(kinds.values()) / 7)
    student = load_deployed(record["key"], tmp_path / "results").delivered
    test = load_splits("digits", {"size": 8}, tmp_path).test
    noise = [evaluate_one(student, Corrupted(test, "noise", s), "fp32").scores["top1"] for s in range(1, 6)]
    assert kinds["corrupted_noise_top1"] == pytest.approx(sum(noise) / 5)
    assert f"{mean:.2f}" in out
    assert "*corrupted*" in out


def test_asking_is_part_of_the_key_and_not_asking_is_not(suite_file: Any) -> None:
    plain, asked, not_asked = (
        {cell.key for cell in cells_of(load_suite(suite_file(**given)))}
        for given in ({}, {"evaluate": {"corruptions": True}}, {"evaluate": {"corruptions": None}})
    )
    assert plain == not_asked
    assert not plain & asked


def test_data_that_know_no_corruptions_are_refused(kdbench: Any, suite_file: Any, tmp_path: Any) -> None:
    (tmp_path / "vectors.py").write_text(
        "from pathlib import Path\nimport torch\nfrom kdbench.data import InMemory, Splits, register_dataset\n"
        "@register_dataset('few_vectors')\ndef few_vectors(data_dir: Path) -> Splits:\n"
        "    part = InMemory(torch.rand(20, 4), torch.arange(20) % 2)\n    return Splits(part, part, 2)\n"
    )
    path = suite_file(evaluate={"corruptions": True}, datasets=["few_vectors"], plugins=["vectors.py"])
    code, _, err = kdbench("plan", path)
    assert code == 2
    assert "evaluate.corruptions: data set few_vectors knows no corruptions" in err
    code, _, err = kdbench("plan", suite_file(evaluate={"corruption": True}))
    assert code == 2
    assert "did you mean 'corruptions'?" in err


def test_without_asking_no_table_speaks_of_it(kdbench: Any, suite_file: Any) -> None:
    code, out, _ = kdbench("run", suite_file(methods={"student": {"ce": 1}}, train={**TINY["train"], "epochs": 1}))
    assert code == 0
    assert "corrupted" not in out

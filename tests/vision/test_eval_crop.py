"""The evaluation crop is timm's, belongs to the data, and is what an exported student tells."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY, batches_of
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.models import get_pretrained_cfg, list_models

from kdbench.data import hold_out, load_splits
from kdbench.errors import UserError
from kdbench.nets import own_crop
from kdbench.results.card import prepared
from kdbench.results.records import Records
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.vision import holding
from kdbench.vision.decode import decode, decoded
from kdbench.vision.sizing import middle

SHAPES = ((40, 57), (91, 33), (50, 50), (31, 300))
CROP = {"share": 0.8, "interpolation": "bilinear"}


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 + 6 pictures in two classes, each of another shape."""
    root = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 6), ("val", 3)):
        for label, name in enumerate(("ape", "bee")):
            (root / part / name).mkdir(parents=True)
            for place in range(count):
                picture = noise(20 + 7 * place, 60 - 5 * place, 100 * label + place)
                picture.save(root / part / name / f"{place}.png")
    return root


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


def splits_of(root: Path, crop: Any = None) -> Any:
    settings = {"path": str(root), "size": 16, "broken": "stop", "max_megapixels": None, "test_crop": crop}
    return load_splits("folder", settings, root)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.875, 0.95, 1.0, 0.9])
def test_it_is_timm_s_to_the_bit(shape: tuple[int, int], share: float) -> None:
    picture = noise(*shape)
    for interpolation in ("bicubic", "bilinear", "lanczos"):
        for mode in (None, "squash"):
            theirs = create_transform(
                (3, 24, 24), interpolation=interpolation, crop_pct=share, crop_mode=mode or "center", normalize=False
            )(picture)
            crop = middle({"share": share, "interpolation": interpolation, **({"mode": mode} if mode else {})})
            assert np.array_equal(np.asarray(crop(picture, 24)), theirs.permute(1, 2, 0).numpy())


def test_a_net_s_own_is_that_of_its_pretrained_cfg() -> None:
    assert own_crop("resnet34.tv_in1k", 224) == {"share": 0.875, "interpolation": "bilinear"}
    assert own_crop("resnet50.a1_in1k", 224) == {"share": 0.95, "interpolation": "bicubic"}
    assert own_crop("resnet50.a1_in1k", 288) == {"share": 1.0, "interpolation": "bicubic"}  # its test_crop_pct
    modes = {cfg.crop_mode: name for name in list_models(pretrained=True) if (cfg := get_pretrained_cfg(name))}
    assert own_crop(modes["squash"], 224)["mode"] == "squash"
    with pytest.raises(UserError, match=f"{modes['border']} is judged with borders"):
        own_crop(modes["border"], 224)
    assert own_crop("cifar_resnet8", 32) is None


@pytest.mark.parametrize("where", ["memory", "pack", "stream"])
def test_test_pictures_have_it_and_training_ones_keep_theirs(
    photos: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 2**30 if where == "memory" else 0)
    monkeypatch.setattr(holding, "OF_FREE_DISK", 0.0 if where == "stream" else 1.0)
    plain, cut = splits_of(photos), splits_of(photos, CROP)
    for batch, other in zip(batches_of(plain.train, 4, "flip"), batches_of(cut.train, 4, "flip"), strict=True):
        assert torch.equal(batch.inputs, other.inputs)
    files = {part: sorted((photos / part).rglob("*.png")) for part in ("train", "val")}
    for split, part in ((cut.test, "val"), (cut.train, "train")):
        [batch] = split.in_order(100)
        expected = [decoded(file.read_bytes(), 16, None, middle(CROP)) for file in files[part]]
        assert torch.equal(batch.inputs * 255, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2).float())
    [before], [after] = plain.test.in_order(100), cut.test.in_order(100)
    assert not torch.equal(before.inputs, after.inputs)
    assert torch.equal(before.target, after.target)
    [again] = splits_of(photos).test.in_order(100)
    assert torch.equal(again.inputs, before.inputs)  # both have a pack of their own


def test_held_out_pictures_are_judged_as_test_pictures_are(photos: Path) -> None:
    held = hold_out(splits_of(photos, CROP), 0.34)
    assert held.validation is not None
    [batch] = held.validation.in_order(100)
    files = sorted((photos / "train").rglob("*.png"))
    everything = [decoded(file.read_bytes(), 16, None, middle(CROP)) for file in files]
    found = {(row * 255).round().byte().numpy().tobytes() for row in batch.inputs.permute(0, 2, 3, 1)}
    assert found <= {pixels.tobytes() for pixels in everything}
    assert len(found) == len(held.validation) == 5


@pytest.mark.parametrize("crop", [None, CROP, 0.9, {"share": 0.9, "mode": "squash"}])
@pytest.mark.parametrize("clear", [False, True])
def test_what_an_exported_student_tells_gives_its_inputs(photos: Path, crop: Any, clear: bool, tmp_path: Path) -> None:
    """`prepare` of the data set, run as it is written, on a picture that lies on its side, partly clear or not."""
    turned, picture = Image.Exif(), noise(40, 57)
    turned[0x0112] = 6
    if clear:
        picture.putalpha(noise(40, 57, 1).convert("L"))
    picture.save(tmp_path / "x.png", exif=turned)
    settings = {"name": "folder", "path": str(photos), "size": 16, **({"test_crop": crop} if crop else {})}
    record: Any = {"settings": {"dataset": settings}}
    names: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "picture": Image.open(tmp_path / "x.png")}
    told = prepared(record)
    exec(told["pillow"], names)
    whole = (tmp_path / "x.png").read_bytes()
    expected = decoded(whole, 16, None, middle(crop)) if crop else decode(tmp_path / "x.png", 16)
    assert np.array_equal(np.asarray(names["x"]), expected)
    assert told["size"] == 16
    assert "on white" in told["steps"]


def suite_of(photos: Path, folder: Path, data: dict[str, Any] | None = None, **train: Any) -> Path:
    datasets = [{"name": "folder", "path": str(photos), "size": 16, **(data or {})}]
    path = folder / "suite.yaml"
    path.write_text(
        yaml.safe_dump({**TINY, "datasets": datasets, "train": {**TINY["train"], **train}}), encoding="utf-8"
    )
    return path


RESNETS = {"teacher": "resnet34.tv_in1k", "student": "resnet10t.c3_in1k"}


def keys_of(path: Path, **changes: Any) -> list[str]:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_bytes()), **changes}), encoding="utf-8")
    return [cell.key for cell in cells_of(load_suite(path))]


def test_one_crop_for_teacher_and_students_and_it_is_part_of_the_data(photos: Path, tmp_path: Path) -> None:
    """Whose it is is said; said in `train`, by a name or in figures, or of the data set, it is the same key."""

    def keys(data: dict[str, Any] | None = None, **train: Any) -> list[str]:
        return keys_of(suite_of(photos, tmp_path, data, **train), pairs=[RESNETS])

    own = {name: get_pretrained_cfg(model) for name, model in RESNETS.items()}
    crops = {name: {"share": cfg.crop_pct, "interpolation": cfg.interpolation} for name, cfg in own.items()}
    plain = keys()
    assert keys(test_crop=None) == plain
    assert keys(test_crop="teacher") == keys(test_crop=crops["teacher"]) == keys({"test_crop": crops["teacher"]})
    assert keys(test_crop="student") == keys({"test_crop": crops["student"]})
    assert len({*plain, *keys(test_crop="teacher"), *keys(test_crop="student")}) == 6
    assert keys({"test_crop": 0.5}, test_crop="student") == keys({"test_crop": {"share": 0.5}})  # the data's own stays
    cells = cells_of(load_suite(suite_of(photos, tmp_path, test_crop=0.9)))
    assert all(cell.dataset.settings["test_crop"] == {"share": 0.9, "interpolation": "bicubic"} for cell in cells)
    assert all(cell.train.test_crop is None is cell.teacher_train.test_crop for cell in cells)


def test_pictures_of_one_size_are_taken_whole(suite_file: Any) -> None:
    plain, path = keys_of(suite_file()), suite_file()
    assert keys_of(path, train={**TINY["train"], "test_crop": 0.9}) == plain
    with pytest.raises(UserError, match=r"suite\.yaml:\d+: train\.test_crop: the data sets' examples have one size"):
        keys_of(path, train={**TINY["train"], "test_crop": "teacher"})


@pytest.mark.parametrize(
    ("data", "train", "words"),
    [
        ({}, {"test_crop": "teacher"}, r"suite\.yaml:\d+: pairs\[0\]: test_crop: cifar_resnet14 says no crop of its"),
        ({}, {"test_crop": 1.5}, r"suite\.yaml:\d+: train\.test_crop: .*should be less than or equal to 1"),
        ({}, {"test_crop": {"share": 0.9, "filter": "x"}}, r"train\.test_crop: .*unknown entry 'filter'"),
        ({"test_crop": {"interpolation": "cubic"}}, {}, r"datasets\[0\]\.test_crop: .*(cubic|missing)"),
        ({}, {"test_crop": "nobody"}, r"train\.test_crop"),
    ],
)
def test_mistakes(photos: Path, tmp_path: Path, data: Any, train: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cells_of(load_suite(suite_of(photos, tmp_path, data, **train)))


def test_a_run_is_judged_by_it(kdbench: Any, photos: Path, tmp_path: Path) -> None:
    code, _, err = kdbench("run", suite_of(photos, tmp_path, test_crop=CROP, batch_size=4, epochs=1))
    assert code == 0, err
    [first, *_] = Records(tmp_path / "results", "tiny").read_all()
    assert first["settings"]["dataset"]["test_crop"] == CROP
    assert "cut out the middle 16 x 16" in prepared(first)["steps"]

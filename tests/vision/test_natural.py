"""`natural: true`: crops come from photographs at their natural size, as a function of (seed, epoch, step) alone."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.results.records import Records
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.vision import holding
from kdbench.vision.natural import Natural, Photographs, box_of, boxed, drawn
from kdbench.vision.packed import Pack
from kdbench.vision.sizing import fitted

CUT = {"resized_crop": [0.1, 0.6], "interpolation": "bicubic"}
RICH = {**CUT, "flip": 0.5, "trivial_augment": True, "erase": 0.3, "mixup": 0.2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 + 6 pictures in three classes, each of its own shape, some lying on their side."""
    root, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for name in ("ape", "bee", "cat"):
            (root / part / name).mkdir(parents=True)
            for place in range(count):
                height, width = draw.integers(20, 90, 2)
                exif = Image.Exif()
                exif[0x0112] = 6 if place % 3 == 0 else 1
                pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{place}.jpg", exif=exif)
    return root


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


def splits_of(root: Path, **settings: Any) -> Any:
    given = {"path": str(root), "size": 16, "broken": "stop", "max_megapixels": None, "natural": True, **settings}
    return load_splits("folder", given, root)


def epoch(split: Any, augment: Any, place: tuple[int, int] = (0, 0), start: int = 0, views: Any = ()) -> list[Any]:
    return list(split.epoch(SimpleNamespace(batch_size=10, augment=augment), *place, start, views))


def assert_same(batches: list[Any], others: list[Any]) -> None:
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.index, other.index)
        assert batch.views.keys() == other.views.keys()
        assert all(torch.equal(view, other.views[name]) for name, view in batch.views.items())


def upright(root: Path) -> list[Image.Image]:
    return [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in sorted(root.rglob("*.jpg"))]


def test_a_box_is_what_torchvision_makes_of_it() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 97, 3), dtype=np.uint8))
    for draw in drawn(20, (0.08, 1.0), "here"):
        left, top, right, bottom = box_of(draw, *picture.size)
        for name in ("bilinear", "bicubic"):
            how = InterpolationMode(name)
            theirs = resized_crop(picture, top, left, bottom - top, right - left, [24, 24], how)
            assert np.array_equal(boxed(picture, draw, 24, name), np.asarray(theirs))


@pytest.mark.parametrize(("width", "height"), [(120, 90), (300, 100), (50, 50)])
def test_boxes_lie_as_torchvision_s(width: int, height: int) -> None:
    """By the means and spreads of their corners and sides, each within four standard errors."""
    torch.manual_seed(0)
    blank, count = torch.zeros(1, height, width), 1500
    theirs = np.array([RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    boxes = np.array([box_of(draw, width, height) for draw in drawn(count, (0.08, 1.0), 1)])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]], 1)
    for moment in (lambda x: x, lambda x: (x - x.mean(0)) ** 2):
        a, b = moment(ours.astype(float)), moment(theirs.astype(float))
        error = np.sqrt(a.var(0) / count + b.var(0) / count)
        assert (np.abs(a.mean(0) - b.mean(0)) <= 4 * error + 1e-9).all()


def test_where_no_size_fits_it_is_the_middle() -> None:
    never = drawn(1, (1.0, 1.0), 0)[0]
    assert box_of(never, 400, 100) == (133, 0, 266, 100)
    assert box_of(never, 100, 400) == (0, 133, 100, 266)


def test_a_batch_shows_boxes_of_whole_photographs(photos: Path) -> None:
    train, whole = splits_of(photos).train, upright(photos / "train")
    assert isinstance(train, Natural)
    for number, batch in enumerate(epoch(train, CUT, (3, 5), views=("plain", "second"))):
        for view, name in ((batch.inputs, ""), (batch.views["second"], "second")):
            draws = drawn(len(batch.index), (0.1, 0.6), name, 3, 5, number)
            expected = [boxed(whole[p], draw, 16, "bicubic") for p, draw in zip(batch.index, draws, strict=True)]
            assert np.array_equal((view * 255).round().permute(0, 2, 3, 1).numpy(), np.stack(expected))
        plain = np.stack([np.asarray(fitted(whole[place], 16)) for place in batch.index])
        assert np.array_equal((batch.views["plain"] * 255).round().permute(0, 2, 3, 1).numpy(), plain)


def test_a_function_of_seed_epoch_and_step_alone(photos: Path) -> None:
    train, views = splits_of(photos).train, ("plain", "second", "mixed")
    first = epoch(train, RICH, (3, 5), views=views)
    for threads in (1, 4):
        some = Natural(train.pixels, train.places, train.targets, threads)
        assert_same(epoch(some, RICH, (3, 5), views=views), first)
        assert_same(epoch(some, RICH, (3, 5), 1, views), first[1:])
    for place in ((4, 5), (3, 6)):
        assert not torch.equal(epoch(train, RICH, place)[0].inputs, first[0].inputs)
    before = train.pixels.pictures
    epoch(train, RICH, (3, 5), 2)
    assert train.pixels.pictures - before == 4  # what is past is not decoded; and the rest once


def test_a_picture_that_is_repeated_is_decoded_once_and_cut_each_time(photos: Path) -> None:
    train = splits_of(photos).train
    before = train.pixels.pictures
    first, *_ = epoch(train, {**CUT, "repeats": 2})
    assert train.pixels.pictures - before == 12
    assert torch.equal(first.index[0::2], first.index[1::2])
    assert not torch.equal(first.inputs[0::2], first.inputs[1::2])


def test_without_such_crops_it_is_as_without(photos: Path) -> None:
    train, plain = splits_of(photos).train, splits_of(photos, natural=None).train
    for augment in ("crop_flip", {"flip": 0.5, "shift": 0.1}):
        assert_same(epoch(train, augment), epoch(plain, augment))
    assert_same(list(train.in_order(7)), list(plain.in_order(7)))
    assert not torch.equal(epoch(train, CUT)[0].inputs, epoch(plain, CUT)[0].inputs)


def test_with_an_evaluation_crop(photos: Path) -> None:
    train = splits_of(photos, test_crop={"share": 0.8}).train
    assert_same(epoch(train, CUT), epoch(splits_of(photos).train, CUT))
    [batch] = train.in_order(100)
    [test] = splits_of(photos, natural=None, test_crop={"share": 0.8}).train.in_order(100)
    assert torch.equal(batch.inputs, test.inputs)


def test_there_is_no_pack_of_them_and_what_is_broken_is_known_before(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(holding, "OF_FREE_DISK", 1.0)
    root = tmp_path / "photos"
    for path in sorted(photos.rglob("*.jpg")):
        (root / path.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(photos)).write_bytes(path.read_bytes())
    (root / "train" / "bee" / "3.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"1 of 24 pictures below .* can't be read: .*bee/3.jpg"):
        splits_of(root)
    splits = splits_of(root, broken="skip")
    assert isinstance(splits.test.pixels, Pack)
    assert isinstance(splits.train.pixels, Photographs)
    assert len(splits.train) == 23
    assert "they are left out" in capsys.readouterr().err
    again = splits_of(root, broken="skip").train
    assert again.pixels.pictures == 0  # remembered
    (root / "train" / "cat" / "1.jpg").write_bytes((root / "train" / "cat" / "2.jpg").read_bytes())
    for split in (splits.train, again):
        with pytest.raises(UserError, match=r"pictures changed since this run began: .*cat/1\.jpg; start it again"):
            epoch(split, CUT)
    (root / "train" / "cat" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"pictures can't be read any more: .*cat/1\.jpg"):
        epoch(splits.train, CUT)


def suite_of(photos: Path, folder: Path, **data: Any) -> Path:
    path = folder / "suite.yaml"
    datasets = [{"name": "folder", "path": str(photos), "size": 16, **data}]
    train = {**TINY["train"], "batch_size": 8, "augment": {**CUT, "flip": 0.5}}
    path.write_text(yaml.safe_dump({**TINY, "datasets": datasets, "train": train}), encoding="utf-8")
    return path


def test_a_suite_trains_with_them_and_plan_says_so(kdbench: Any, photos: Path, tmp_path: Path) -> None:
    path = suite_of(photos, tmp_path, natural=True)
    plain = {cell.key for cell in cells_of(load_suite(suite_of(photos, tmp_path / ".")))}
    path = suite_of(photos, tmp_path, natural=True)
    assert not plain & {cell.key for cell in cells_of(load_suite(path))}
    code, out, err = kdbench("plan", path)
    assert code == 0, err
    assert "training pictures are decoded whole whenever they are needed" in out
    assert "no pack" in out
    code, _, err = kdbench("run", path)
    assert code == 0, err
    assert {record["status"] for record in Records(tmp_path / "results", "tiny").read_all()} == {"done"}

"""Pictures of one's own are read as a person sees them, and what is odd about their folder is told before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdbench.data import DATASETS, digest_of, load_splits, task_of
from kdbench.errors import UserError
from kdbench.vision.decode import decode
from kdbench.vision.folder import folder

RAMP = np.tile(np.arange(16, dtype=np.float64) / 15, (16, 1))  # 0 at the left, 1 at the right


def save(picture, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


@pytest.fixture
def place(tmp_path):
    """Two classes with two pictures each, to train on and to test."""
    for part in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            for place in range(2):
                save(Image.new("RGB", (16, 16), (80 * number, 40, 90)), tmp_path / part / name / f"{place}.png")
    return tmp_path


def assert_ramp(pixels, tolerance=2):
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels - 255 * RAMP[..., None]).max() <= tolerance


@pytest.mark.parametrize("kind", ["uint8", "uint16 png", "uint16 tif", "float tif", "int32 tif", "16-bit pgm"])
def test_values_are_scaled_by_their_type(tmp_path, kind):
    wide, path = np.rint(RAMP * 65535).astype(np.uint16), tmp_path / "x.tif"
    if kind == "uint8":
        save(Image.fromarray(np.rint(RAMP * 255).astype(np.uint8)), path)
    elif kind == "float tif":
        save(Image.fromarray(RAMP.astype(np.float32)), path)
    elif kind == "int32 tif":
        save(Image.fromarray(wide.astype(np.int32)), path)
    elif kind == "16-bit pgm":
        path = tmp_path / "x.ppm"
        path.write_bytes(b"P5 16 16 65535\n" + wide.astype(">u2").tobytes())
    else:
        path = tmp_path / f"x.{kind[-3:]}"
        save(Image.fromarray(wide), path)
    assert_ramp(decode(path, 16))


@pytest.mark.parametrize("values", [RAMP * 255, RAMP - 0.5, np.full((16, 16), np.nan)])
def test_floats_outside_their_range_are_refused(tmp_path, values):
    save(Image.fromarray(values.astype(np.float32)), tmp_path / "x.tif")
    with pytest.raises(ValueError, match="what is white is not known"):
        decode(tmp_path / "x.tif", 16)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_stands_upright(tmp_path, orientation):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8] = 255  # white at the top left
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored, exif = Image.fromarray(upright), Image.Exif()
    if orientation in turns:
        stored = stored.transpose(turns[orientation])
    exif[0x0112] = orientation
    save(stored, tmp_path / "x.png", exif=exif)
    assert np.array_equal(decode(tmp_path / "x.png", 16), upright)


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "palette and transparency", "grey and transparency"])
def test_what_is_clear_is_white(tmp_path, kind):
    """Below the clear half lies black, which must not show."""
    alpha = np.zeros((16, 16), np.uint8)
    alpha[:, 8:] = 255
    grey = np.full((16, 16), 51, np.uint8) * (alpha > 0)
    expected = np.where(alpha[..., None] > 0, 51, 255).repeat(3, 2)
    path = tmp_path / "x.png"
    if kind in ("RGBA", "LA"):
        save(Image.merge(kind, [*[Image.fromarray(grey)] * (len(kind) - 1), Image.fromarray(alpha)]), path)
    elif kind == "grey and transparency":
        save(Image.fromarray(grey), path, transparency=0)
    else:
        picture = Image.frombytes("P", (16, 16), (alpha > 0).astype(np.uint8).tobytes())
        picture.putpalette([0, 0, 0, 51, 51, 51])
        save(picture, path, **({"transparency": 0} if "transparency" in kind else {}))
        expected = expected if "transparency" in kind else grey[..., None].repeat(3, 2)
    assert np.array_equal(decode(path, 16), expected)


def test_inks(tmp_path):
    save(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "x.jpg", quality=100)
    assert np.abs(decode(tmp_path / "x.jpg", 16).astype(int) - [255, 0, 0]).max() <= 4


def test_a_picture_with_too_many_pixels(place, monkeypatch):
    monkeypatch.setattr("kdbench.vision.decode.MEGAPIXELS", 0.001)
    save(Image.new("RGB", (64, 64)), place / "train" / "cat" / "large.png")
    with pytest.raises(UserError, match=r"large.png \(0.0 megapixels; the limit is 0.001 \(the data set's"):
        load_splits("folder", {"path": "", "size": 16}, place)
    assert len(folder(place, "", 16, "skip").train) == 4
    assert len(folder(place, "", 16, max_megapixels=1.0).train) == 5


def test_a_picture_beyond_pillows_own_limit(place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert len(folder(place, "", 16).train) == 4
    assert Image.MAX_IMAGE_PIXELS == 10


def test_hidden_folders_and_files_are_no_class_and_no_pictures(place):
    save(Image.new("RGB", (16, 16)), place / "train" / ".ipynb_checkpoints" / "a.png")
    save(Image.new("RGB", (16, 16)), place / "val" / ".trash" / "a.png")
    save(Image.new("RGB", (16, 16)), place / "train" / "cat" / ".ipynb_checkpoints" / "a-checkpoint.png")
    (place / "train" / "cat" / "._0.png").write_bytes(b"a resource fork")
    splits = folder(place, "", 16)
    assert splits.classes == ("cat", "dog")
    assert len(splits.train) == 4


def whole(**settings):
    return {"path": "", "size": 16, "broken": "stop", "max_megapixels": None, **settings}


def test_a_class_without_pictures_is_refused_before_training(kdbench, suite_file, place: Path):
    (place / "train" / "bird").mkdir()
    with pytest.raises(UserError, match="train has no pictures of bird; remove the folders or fill them"):
        task_of("folder", whole(), place)
    suite = suite_file(datasets=[{"name": "folder", "path": str(place), "size": 16}], seeds=[0])
    for command in ("plan", "run"):
        code, _out, err = kdbench(command, suite)
        assert code == 2
        assert "no pictures of bird" in err
        assert not (place / "results").exists()


def test_a_class_without_test_pictures_is_told(place, capsys):
    for path in (place / "val" / "dog").iterdir():
        path.unlink()
    assert task_of("folder", whole(), place).num_test == 2
    assert "val has no pictures of dog: nothing will be said of these classes" in capsys.readouterr().err


def test_pictures_without_a_class_are_trained_on_where_asked_for(place):
    with pytest.raises(UserError, match=r"no pictures below .*unlabelled, which `unlabelled` asks for"):
        task_of("folder", whole(unlabelled=True), place)
    for number in range(3):
        save(Image.new("RGB", (16, 16), (9, 9, 9 * number)), place / "unlabelled" / "some" / f"{number}.png")
    splits = load_splits("folder", whole(unlabelled=True), place)
    assert splits.train.targets.tolist() == [0, 0, 1, 1, -1, -1, -1]
    assert task_of("folder", whole(unlabelled=True), place).num_train == 7
    assert splits.classes == ("cat", "dog")
    known = digest_of("folder", whole(unlabelled=True), place)
    assert known != digest_of("folder", whole(), place)
    save(Image.new("RGB", (16, 16), "red"), place / "unlabelled" / "more.png")
    assert digest_of("folder", whole(unlabelled=True), place) != known
    assert len(load_splits("folder", whole(), place).train) == 4


@pytest.mark.parametrize(("moves", "advice"), [
    ({"train": "Train"}, "Rename Train/ to train/"),
    ({"val": "validation"}, "Rename validation/ to val/"),
    ({"train": "training", "val": "testing"}, "Rename testing/ to test/, training/ to train/"),
    ({"train": "photos/train", "val": "photos/val"}, "Did you mean {}/photos?"),
    ({"train/cat": "cat", "train/dog": "dog", "val": ".val", "train": ".train"}, "cat, dog look like classes"),
])  # fmt: skip
def test_a_folder_that_nearly_fits(place, moves, advice):
    for old, new in moves.items():
        (place / new).parent.mkdir(parents=True, exist_ok=True)
        (place / old).rename(place / new)
    with pytest.raises(UserError, match="each with a folder per class") as caught:
        folder(place.parent, path=str(place), size=16)
    assert advice.format(place) in str(caught.value)


def test_places_and_names_that_nearly_are(place, capsys, monkeypatch):
    with pytest.raises(UserError, match=f"is no folder; did you mean {place.name!r}"):
        folder(place.parent, path=f"{place}s", size=16)
    monkeypatch.chdir(place.parent)
    task_of("folder", DATASETS.settings("folder", {"path": place.name})[0], place / "data")
    assert f"did you mean {place}? `path` is below the data folder" in capsys.readouterr().err
    (place / "val" / "cat").rename(place / "val" / "Cat")
    with pytest.raises(UserError, match="is 'Cat' another spelling of 'cat'"):
        folder(place.parent, path=str(place), size=16)


def test_what_an_archive_adds_is_no_class(place):
    (place / "train" / "__MACOSX").mkdir()
    assert folder(place.parent, path=str(place), size=16).num_classes == 2

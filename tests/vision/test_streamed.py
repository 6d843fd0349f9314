"""Pictures that do not lie in memory give the same batches as those that do; each is decoded once for all members."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml
from conftest import TINY, batches_of
from jpegs import folder_of_jpegs
from PIL import Image

from kdbench.batching import shares
from kdbench.data import Split, load_splits
from kdbench.errors import UserError
from kdbench.grid.progress import Bar
from kdbench.method.contract import VIEWS
from kdbench.vision import holding
from kdbench.vision.batches import AUGMENTS, Images
from kdbench.vision.packed import Pack
from kdbench.vision.sources import Decoder, in_turn
from kdbench.vision.streamed import Streamed

SETTINGS = {"size": 16}
TABLE = {"resized_crop": [0.3, 1.0], "flip": 0.5, "trivial_augment": True, "mixup": 0.2, "repeats": 2}
CLASSES = ("ape", "bee", "cat")


def save_noise(path: Path, number: int) -> None:
    """A JPEG of its own size, some of them turned and some grey."""
    draw = np.random.default_rng(number)
    height, width = draw.integers(17, 60, 2)
    pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 1 + number % 8
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert("L" if number % 5 == 0 else "RGB").save(path, exif=exif)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """45 + 12 JPEGs in three classes."""
    root = tmp_path_factory.mktemp("photos")
    for part, count in (("train", 15), ("val", 4)):
        for label, name in enumerate(CLASSES):
            for place in range(count):
                save_noise(root / part / name / f"{place}.jpg", 100 * label + place)
    return root


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def held(monkeypatch):
    """Has pixels lie in a place: `held("pack")`."""

    def choose(where: str) -> None:
        monkeypatch.setattr(holding, "MOST_IN_MEMORY", 2**30 if where == "memory" else 0)
        monkeypatch.setattr(holding, "OF_FREE_DISK", 0.0 if where == "stream" else 1.0)

    return choose


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of all pictures that are decoded from now on."""
    names: list[str] = []
    fill = Decoder.try_to_fill

    def noted(self, places, rows):
        names.extend(self.source.name(place) for place in places)
        return fill(self, places, rows)

    monkeypatch.setattr(Decoder, "try_to_fill", noted)
    return names


def loaded(root: Path, **settings) -> tuple[Split, Split]:
    given = {"path": str(root), "broken": "stop", "max_megapixels": None, **SETTINGS, **settings}
    splits = load_splits("folder", given, root)
    return splits.train, splits.test


def assert_same(batches, others) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.inputs, other.inputs)
        assert batch.inputs.stride() == other.inputs.stride()
        assert torch.equal(batch.target, other.target)
        assert torch.equal(batch.index, other.index)
        assert batch.views.keys() == other.views.keys()
        assert all(torch.equal(view, other.views[name]) for name, view in batch.views.items())


@pytest.mark.parametrize("where", ["pack", "stream"])
def test_the_same_batches_as_in_memory(photos, held, where):
    held("memory")
    train, test = loaded(photos)
    held(where)
    streamed, streamed_test = loaded(photos)
    assert isinstance(train, Images)
    assert isinstance(streamed, Streamed)
    assert isinstance(streamed.pixels, Pack if where == "pack" else Decoder)
    assert streamed.inputs == train.inputs
    for threads in (1, 4):
        some = Streamed(streamed.pixels, streamed.places, streamed.targets, threads)
        for augment in (*AUGMENTS, TABLE):
            assert_same(batches_of(train, 10, augment, 3, 7, VIEWS), batches_of(some, 10, augment, 3, 7, VIEWS))
    assert_same(list(test.in_order(5)), list(streamed_test.in_order(5)))
    part = torch.tensor([40, 3, 3, 7])
    assert_same(list(train[part].in_order(3)), list(streamed[part].in_order(3)))


def test_what_is_past_is_not_decoded(photos, held, decoded):
    held("stream")
    train, _ = loaded(photos)
    whole = batches_of(train, 10, "crop_flip")
    decoded.clear()
    how = SimpleNamespace(batch_size=10, augment="crop_flip")
    assert_same(list(train.epoch(how, 0, 0, start=3)), whole[3:])
    assert len(decoded) == 15


def test_an_epoch_that_is_left_ends_its_threads_and_has_decoded_little(photos, held, decoded):
    held("stream")
    train, _ = loaded(photos)
    decoded.clear()
    how = SimpleNamespace(batch_size=4, augment="none")
    epoch = train.epoch(how, 0, 0)
    next(epoch)
    epoch.close()
    assert len(decoded) <= 4 + 4 * 4 + 4  # the batch, what is ahead of it (4 chunks for two threads), one just begun
    assert in_turn_threads() == 0


@pytest.mark.parametrize("where", ["pack", "stream"])
def test_memory_is_flat_over_epochs(held, tmp_path, where):
    """96 pictures at 224 pixels are 14 MB a pass, 58 MB as floats."""
    held(where)
    train, _ = loaded(folder_of_jpegs(tmp_path / "photos", 96, 6, 3, (225, 260)), size=224)
    how, after = SimpleNamespace(batch_size=16, augment="crop_flip"), []
    for number in range(11):
        for batch in train.epoch(how, 0, number):
            del batch
        after.append(psutil.Process().memory_info().rss / 2**20)
    assert min(after[8:]) - min(after[2:5]) < 42  # half of six passes; a batch or two come and go with the allocator


def in_turn_threads() -> int:
    return sum(thread.name.startswith("pictures") for thread in threading.enumerate())


def test_in_turn_is_in_order_and_bounded():
    begun: list[int] = []
    turns = in_turn(lambda x: x * x, (begun.append(x) or x for x in range(100)), 3, 5)
    assert next(turns) == 0
    assert len(begun) == 6
    assert [0, *turns] == [x * x for x in range(100)]


def test_what_breaks_in_a_thread_reaches_who_asks(photos, held, tmp_path):
    held("stream")
    root = tmp_path / "photos"
    for part in ("train", "val"):
        for number, name in enumerate(CLASSES):
            save_noise(root / part / name / "0.jpg", number)
    train, _ = loaded(root)
    (root / "train" / "bee" / "0.jpg").unlink()
    with pytest.raises(UserError, match=r"pictures can't be read any more: .*bee/0.jpg"):
        list(train.in_order(2))


@pytest.mark.parametrize("where", ["memory", "pack", "stream"])
def test_broken_pictures_are_named_before_training_and_remembered(photos, held, where, tmp_path, capsys, decoded):
    held(where)
    root = tmp_path / "photos"
    for part in ("train", "val"):
        for number, name in enumerate(CLASSES):
            save_noise(root / part / name / "0.jpg", number)
            save_noise(root / part / name / "1.jpg", 10 + number)
    whole = (root / "train" / "bee" / "1.jpg").read_bytes()
    (root / "train" / "bee" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "cat" / "0.jpg").write_bytes(b"no picture")
    named = r"2 of 6 pictures below .*train can't be read: .*bee/1.jpg, .*cat/0.jpg; remove them, or give"
    with pytest.raises(UserError, match=named):
        loaded(root)
    train, _ = loaded(root, broken="skip")
    assert len(train) == 4
    assert train.targets.tolist() == [0, 0, 1, 2]
    assert "2 of 6 pictures" in capsys.readouterr().err
    decoded.clear()
    loaded(root, broken="skip")
    assert len(decoded) == (12 if where == "memory" else 0)


def test_a_pack_is_made_once_and_is_decoded_anew_where_it_is_damaged(photos, held, decoded):
    held("pack")
    train, test = loaded(photos)
    assert len(decoded) == 57
    first = batches_of(train, 10)
    again, _ = loaded(photos)
    assert_same(batches_of(again, 10), first)
    assert len(decoded) == 57
    with open(again.pixels.path, "r+b") as file:
        file.seek(7 * 16 * 16 * 3 + 5)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert_same(batches_of(again, 10), first)
    assert again.pixels.damaged == 1
    assert len(decoded) == 58
    os.truncate(again.pixels.path, 1000)
    whole, _ = loaded(photos)
    assert_same(batches_of(whole, 10), first)
    assert len(decoded) == 58 + 45
    assert isinstance(test.pixels, Pack)


def test_a_pack_may_be_deleted_at_any_time(photos, held):
    held("pack")
    train, _ = loaded(photos)
    whole = batches_of(train, 10)
    train.pixels.path.unlink()
    assert_same(batches_of(train, 10), whole)


@pytest.mark.parametrize("where", ["pack", "stream"])
def test_a_picture_that_changes_meanwhile_is_not_trained_on(held, tmp_path, where):
    """Its key tells of the old one. Another run may have removed the pack, since it was of other pictures."""
    held(where)
    root = tmp_path / "photos"
    for part in ("train", "val"):
        for number, name in enumerate(CLASSES):
            save_noise(root / part / name / "0.jpg", number)
    train, _ = loaded(root)
    again, _ = loaded(root)  # by what is known of them from the first time
    save_noise(root / "train" / "bee" / "0.jpg", 77)
    if where == "pack":
        train.pixels.path.unlink()
    for split in (train, again):
        with pytest.raises(UserError, match=r"pictures changed since this run began: .*bee/0\.jpg; start it again"):
            batches_of(split, 3)


def test_another_pillow_has_another_pack(photos, held, monkeypatch):
    held("pack")
    train, _ = loaded(photos)
    monkeypatch.setattr("PIL.__version__", "0.1")
    other, _ = loaded(photos)
    assert other.pixels.path != train.pixels.path


def test_who_come_together_make_one_pack(photos, held, decoded):
    held("pack")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: loaded(photos), range(3)))
    assert len(decoded) == 57
    for train, _ in found:
        assert_same(batches_of(train, 10), batches_of(found[0][0], 10))


def test_other_pictures_have_another_pack_and_the_old_one_goes(photos, held, tmp_path, decoded):
    held("pack")
    root = tmp_path / "photos"
    for part in ("train", "val"):
        for number, name in enumerate(CLASSES):
            save_noise(root / part / name / "0.jpg", number)
    before, _ = loaded(root)
    save_noise(root / "train" / "ape" / "0.jpg", 77)
    after, _ = loaded(root)
    assert len(decoded) == 12
    assert not before.pixels.path.exists()
    held("memory")
    assert_same(list(loaded(root)[0].in_order(3)), list(after.in_order(3)))


def test_a_full_disk_means_no_pack(photos, held, monkeypatch):
    held("pack")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdbench.vision.packed.os.replace", full)
    train, _ = loaded(photos)
    assert isinstance(train.pixels, Decoder)
    assert len(batches_of(train, 10)) == 5
    assert not list(holding.packs().glob("*.new"))


def test_the_rule(monkeypatch):
    monkeypatch.setattr(holding.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**40}))
    monkeypatch.setattr(holding, "free_disk", lambda place: 4e9)
    assert holding.holding_of(50_000, 32).where == "memory"
    assert holding.holding_of(12_500, 224).where == "pack"  # 1.9 GB
    assert holding.holding_of(1_300_000, 224).where == "stream"  # 196 GB
    monkeypatch.setattr(holding.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 4e8}))
    assert holding.holding_of(50_000, 32).where == "pack"  # 154 MB, but the machine is full


def test_plan_counts_on_the_pack_that_is_there(kdbench, photos, tmp_path, monkeypatch):
    """Once it is written the disk is fuller than when the rule allowed it; the run reads it all the same."""
    needed = 57 * 16 * 16 * 3
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr(holding, "free_disk", lambda place: 2.2 * needed)
    assert isinstance(loaded(photos)[0].pixels, Pack)
    monkeypatch.setattr(holding, "free_disk", lambda place: 1.2 * needed)
    assert isinstance(loaded(photos)[0].pixels, Pack)
    assert "folder: 4.4e-05 GB of pixels, streamed from a pack" in kdbench("plan", suite_of(photos, tmp_path))[1]


def test_a_picture_that_is_repeated_is_decoded_once(photos, held, decoded):
    held("memory")
    whole, _ = loaded(photos)
    held("stream")
    train, _ = loaded(photos)
    for repeats, augment in ((2, {"flip": 0.5, "repeats": 2}), (3, {"flip": 0.5, "repeats": 3})):
        decoded.clear()
        assert_same(batches_of(train, 24, augment), batches_of(whole, 24, augment))
        assert len(decoded) == 45 // repeats + (45 % repeats > 0)


class Killed(BaseException):
    """As a signal: nothing may catch it."""


@pytest.mark.parametrize(("where", "natural"), [("pack", None), ("stream", None), ("stream", True)])
@pytest.mark.parametrize("damage", [False, True])
def test_a_survey_that_was_killed_goes_on(photos, held, tmp_path, monkeypatch, where, natural, damage, capsys):
    """Broken pictures that it had found are known, too; pixels that are not what was noted are decoded again."""
    held(where)
    root = tmp_path / "photos"
    for path in sorted(photos.rglob("*.jpg")):
        (root / path.relative_to(photos)).parent.mkdir(parents=True, exist_ok=True)
        (root / path.relative_to(photos)).write_bytes(path.read_bytes())
    (root / "train" / "ape" / "1.jpg").write_bytes(b"no picture")
    fill, begun = Decoder.try_to_fill, []

    def dies(self, places, rows):
        begun.extend(places)
        if len(begun) > 30:
            raise Killed
        return fill(self, places, rows)

    monkeypatch.setattr(Decoder, "try_to_fill", dies)
    with pytest.raises(Killed):
        loaded(root, broken="skip", natural=natural)
    monkeypatch.setattr(
        Decoder, "try_to_fill", lambda self, places, rows: begun.extend(places) or fill(self, places, rows)
    )
    [journal] = holding.packs().glob("*.sums")
    known = journal.stat().st_size // 8
    assert 8 <= known <= 32
    if damage:
        [broken] = holding.packs().glob("*.new") if where == "pack" else [journal]
        with open(broken, "r+b") as file:
            file.seek(5 * (16 * 16 * 3 if where == "pack" else 8))
            file.write(bytes(4))
        known = 5
    begun.clear()
    train, _ = loaded(root, broken="skip", natural=natural)
    assert len(begun) == 45 - known + 12 + 1  # the rest, the test pictures, and the broken one once more
    assert f"{known} of them are from a run that was ended" in capsys.readouterr().err
    assert not list(holding.packs().glob("*.sums"))
    assert len(train) == 44
    held("memory")
    whole, _ = loaded(root, broken="skip")
    assert_same(batches_of(train, 10, "crop_flip"), batches_of(whole, 10, "crop_flip"))
    if where == "pack":
        assert train.pixels.damaged == 0


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("augment", "natural"), [("crop_flip", None), (TABLE, None), ({"flip": 0.5, "mixup": 0.3}, None), (TABLE, True)]
)
def test_a_process_reads_its_part_alone(photos, held, size, augment, natural):
    """Of each batch its nets see the same; what is mixed with its own pictures is read, too."""
    held("stream")
    train, _ = loaded(photos, natural=natural)
    for batch_size, views in ((10, ("second", "plain")), (11, ()), (45, ("mixed",))):
        whole = batches_of(train, batch_size, augment, views=views)
        for rank in range(size):
            own, before = train.part(rank, size), train.pixels.pictures
            for batch, part in zip(whole, batches_of(own, batch_size, augment, views=views), strict=True):
                sizes = shares(len(batch.index), size)
                rows = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
                assert torch.equal(batch.inputs[rows], part.inputs[rows])
                assert torch.equal(batch.target, part.target)
                assert torch.equal(batch.index, part.index)
                assert all(torch.equal(view[rows], part.views[name][rows]) for name, view in batch.views.items())
            if not views and augment == "crop_flip":
                assert train.pixels.pictures - before <= 45 / size + 5
    [seen] = train.part(1, 2).in_order(45)
    [all_of_it] = train.in_order(45)
    assert torch.equal(seen.inputs[23:], all_of_it.inputs[23:])
    assert not seen.inputs[:23].any()


NINE = {"student": {"ce": 1}} | {f"ce{n}": {"ce": 1 - n / 10} for n in range(1, 9)}


def suite_of(photos: Path, folder: Path, **changes) -> Path:
    datasets = [{"name": "folder", "path": str(photos), **SETTINGS}]
    train = {"epochs": 2, "batch_size": 16, "lr": 0.05, "augment": "crop_flip"}
    suite = folder / "suite.yaml"
    suite.write_text(yaml.safe_dump({**TINY, "datasets": datasets, "train": train, **changes}))
    return suite


def outcome(results: Path):
    records = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {r["key"]: (r["status"], r["scores"], r["curves"]) for r in records}


@pytest.mark.long
def test_nine_members_decode_a_picture_once(kdbench, photos, held, decoded, tmp_path):
    held("stream")
    assert kdbench("run", suite_of(photos, tmp_path, methods=NINE, teacher_train={"epochs": 1}))[0] == 0
    trained = [name for name in decoded if "/train/" in name]
    tested = [name for name in decoded if "/val/" in name]
    survey, teacher, students = 45, 45, 2 * 45
    assert len(trained) == survey + teacher + students
    # The survey; the teacher after its epoch and at its end; what it predicts; all members after each epoch and at the
    # end of all.
    assert len(tested) == 12 * (1 + 2 + 1 + 2 + 1)


def test_killed_in_mid_epoch_and_resumed(kdbench, photos, held, tmp_path, monkeypatch):
    held("memory")
    assert kdbench("run", suite_of(photos, tmp_path), results=tmp_path / "whole")[0] == 0
    held("stream")
    steps, advance = [0], Bar.advance

    def interrupted(self, *arguments):
        advance(self, *arguments)
        steps[0] += 1
        if steps[0] in (2, 8):  # the teacher's second step of six, the students' second
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Bar, "advance", interrupted)
    suite = suite_of(photos, tmp_path)
    assert [kdbench("run", suite)[0] for _ in range(3)] == [143, 143, 0]
    assert steps[0] == 12
    assert outcome(tmp_path / "results") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("memory", "4.4e-05 GB of pixels, held in memory"),
        ("pack", "4.4e-05 GB of pixels, streamed from a pack of them in "),
        ("stream", "4.4e-05 GB of pixels, decoded whenever they are needed"),
    ],
)
def test_plan_tells_where_pixels_lie(kdbench, photos, held, tmp_path, where, words):
    held(where)
    code, out, _ = kdbench("plan", suite_of(photos, tmp_path))
    assert code == 0
    assert f"folder: {words}" in out
    assert ("% of it for loading" in out) == (where == "stream")

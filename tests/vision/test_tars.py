"""Pictures in tar files are those of a folder, whichever way the tar tells their classes; none is unpacked."""

import io
import os
import tarfile
from pathlib import Path

import pytest
import torch
from jpegs import folder_of_jpegs

from kdbench.data import DATASETS, digest_of, load_splits, task_of
from kdbench.errors import UserError
from kdbench.vision import holding, tars

SETTINGS = {"path": "", "size": 16, "broken": "stop", "max_megapixels": None}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """12 + 6 JPEGs in the classes class0, class1, class2."""
    return folder_of_jpegs(tmp_path_factory.mktemp("photos"), 12, 6, 3, (20, 40))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_a_class_whose_name_is_no_utf8_is_refused(photos: Path, tmp_path: Path) -> None:
    picture = next(photos.rglob("*.jpg")).read_bytes()
    for part in ("train", "val"):
        with tarfile.open(tmp_path / f"{part}.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            add(tar, "caf\udce9/0.jpg", picture)
            add(tar, "tea/0.jpg", picture)
    with pytest.raises(UserError, match=r"class caf\\udce9 is not valid UTF-8"):
        task_of("tar", SETTINGS, tmp_path)


def one_tar(files: list[Path], target: Path) -> None:
    """train.tar with a folder per class, beside what is no picture."""
    with tarfile.open(target.with_suffix(".tar"), "w") as tar:
        add(tar, "README.md", b"no picture")
        add(tar, "class0/._0.jpg", b"a resource fork")
        for file in files:
            add(tar, f"./{file.parent.name}/{file.name}", file.read_bytes())


def tar_per_class(files: list[Path], target: Path) -> None:
    for name in sorted({file.parent.name for file in files}):
        target.mkdir(exist_ok=True)
        with tarfile.open(target / f"{name}.tar", "w") as tar:
            for file in files:
                if file.parent.name == name:
                    add(tar, file.name, file.read_bytes())


def shards(files: list[Path], target: Path) -> None:
    """As WebDataset has them: a .cls file beside each picture, five pictures a shard."""
    target.mkdir()
    for number in range(0, len(files), 5):
        with tarfile.open(target / f"shard-{number:06}.tar", "w") as tar:
            for place, file in enumerate(files[number : number + 5], number):
                add(tar, f"{place:06}.cls", file.parent.name.encode() + b"\n")
                add(tar, f"{place:06}.jpg", file.read_bytes())


def made(photos: Path, root: Path, make) -> Path:
    root.mkdir()
    for part in ("train", "val"):
        make(sorted((photos / part).rglob("*.jpg")), root / part)
    return root


@pytest.mark.parametrize("make", [one_tar, tar_per_class, shards])
@pytest.mark.parametrize("where", ["memory", "stream"])
def test_as_in_a_folder(photos, tmp_path, monkeypatch, make, where):
    root = made(photos, tmp_path / "tars", make)
    whole = load_splits("folder", SETTINGS, photos)
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 2**30 if where == "memory" else 0)
    monkeypatch.setattr(holding, "OF_FREE_DISK", 0.0)
    splits = load_splits("tar", SETTINGS, root)
    assert splits.classes == whole.classes == ("class0", "class1", "class2")
    for part in ("train", "test"):
        first, second = (next(getattr(s, part).in_order(20)) for s in (splits, whole))
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.target, second.target)
    task = task_of("tar", SETTINGS, root)
    assert (task.num_train, task.num_test, task.classes) == (12, 6, splits.classes)


@pytest.mark.parametrize("name", ["folder", "tar", "hfds"])
def test_augmented_and_corrupted_alike(name):
    assert DATASETS[name].augment_table is DATASETS["digits"].augment_table
    assert DATASETS[name].corrupted is DATASETS["digits"].corrupted


def test_numbers_are_classes_in_their_order(photos, tmp_path):
    assert tars.classes_of(["10", "9", "2", "9"]) == ["2", "9", "10"]
    assert tars.classes_of(["b", "10", "9"]) == ["10", "9", "b"]


def test_a_tar_is_listed_once_while_it_does_not_change(photos, tmp_path, monkeypatch):
    root, listed, usual = made(photos, tmp_path / "tars", one_tar), [], tars._listed
    monkeypatch.setattr(tars, "_listed", lambda archive: listed.append(archive.name) or usual(archive))
    before = digest_of("tar", SETTINGS, root)
    for _ in range(2):
        task_of("tar", SETTINGS, root)
        load_splits("tar", SETTINGS, root)
    assert listed == ["train.tar", "val.tar"]
    one_tar(sorted((photos / "train").rglob("*.jpg"))[:-1], root / "train")
    assert task_of("tar", SETTINGS, root).num_train == 11
    assert listed == ["train.tar", "val.tar", "train.tar"]
    assert digest_of("tar", SETTINGS, root) != before


def test_a_tar_of_the_same_size_and_time_is_listed_anew(photos, tmp_path):
    root = made(photos, tmp_path / "tars", shards)
    before, _ = tars.labelled_parts(root)
    archive = next(path for path in sorted((root / "train").iterdir()) if b"class0\n" in path.read_bytes())
    about = archive.stat()
    archive.write_bytes(archive.read_bytes().replace(b"class0\n", b"class1\n", 1))
    os.utime(archive, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (archive.stat().st_size, archive.stat().st_ino) == (about.st_size, about.st_ino)
    after, _ = tars.labelled_parts(root)
    assert after[0].labels != before[0].labels


def test_broken_ones_are_named_with_their_tar(photos, tmp_path):
    root = made(photos, tmp_path / "tars", one_tar)
    with tarfile.open(root / "train.tar", "a") as tar:
        add(tar, "class1/half.jpg", sorted((photos / "train").rglob("*.jpg"))[0].read_bytes()[:300])
    with pytest.raises(
        UserError, match=r"1 of 13 pictures below .* can't be read: .*train.tar:class1/half.jpg; remove"
    ):
        load_splits("tar", SETTINGS, root)
    assert len(load_splits("tar", {**SETTINGS, "broken": "skip"}, root).train) == 12


@pytest.mark.parametrize("said", [None, b" \n"])
def test_cls_files_tell_the_classes_of_all_or_of_none(photos, tmp_path, said):
    """One that is missing or empty in one of the shards would make a class of its own."""
    root = made(photos, tmp_path / "tars", shards)
    with tarfile.open(root / "train" / "shard-000099.tar", "w") as tar:
        add(tar, "000099.jpg", sorted((photos / "train").rglob("*.jpg"))[0].read_bytes())
        if said is not None:
            add(tar, "000099.cls", said)
    words = r"1 of 13 pictures have no class in a \.cls file: .*shard-000099\.tar:000099\.jpg"
    with pytest.raises(UserError, match=words):
        task_of("tar", SETTINGS, root)


def test_what_is_wrong_is_told(photos, tmp_path):
    root = tmp_path / "tars"
    with pytest.raises(UserError, match="tars is not a folder"):
        load_splits("tar", SETTINGS, root)
    made(photos, root, one_tar)
    (root / "val.tar").rename(root / "other.tar")
    with pytest.raises(UserError, match=r"no tar files to test: val.tar or val/\*.tar or test.tar or test/\*.tar"):
        load_splits("tar", SETTINGS, root)
    with tarfile.open(root / "val.tar", "w:gz") as tar:
        add(tar, "class0/1.jpg", b"x")
    with pytest.raises(UserError, match=r"val.tar can't be read: .*"):
        load_splits("tar", SETTINGS, root)
    with tarfile.open(root / "val.tar", "w") as tar:
        add(tar, "class9/1.jpg", b"x")
    with pytest.raises(UserError, match="test pictures of classes that training lacks: class9"):
        load_splits("tar", SETTINGS, root)

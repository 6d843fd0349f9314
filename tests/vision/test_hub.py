"""A Hugging Face data set gives the pictures of a folder. No network: its files lie in a folder."""

from pathlib import Path

import pytest
import torch
from jpegs import folder_of_jpegs

from kdbench.data import digest_of, load_splits, task_of
from kdbench.errors import UserError
from kdbench.vision import holding

SETTINGS = {"path": "", "size": 16, "broken": "stop", "max_megapixels": None}
COLUMNS = {"train": "train", "test": "validation", "image": "image", "label": "label"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """12 + 6 JPEGs in the classes class0, class1, class2."""
    return folder_of_jpegs(tmp_path_factory.mktemp("photos"), 12, 6, 3, (20, 40))


@pytest.fixture(scope="module")
def hub(photos, tmp_path_factory) -> Path:
    """The same as parquet files."""
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    root = tmp_path_factory.mktemp("hub")
    names = ["class0", "class1", "class2"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    for part, split in (("train", "train"), ("val", "validation")):
        files = sorted((photos / part).rglob("*.jpg"))
        images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
        labels = [names.index(file.parent.name) for file in files]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(str(root / f"{split}-00000-of-00001.parquet"))
    return root


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"), raising=False)


@pytest.mark.parametrize("where", ["memory", "stream"])
def test_as_in_a_folder(photos, hub, monkeypatch, where):
    whole = load_splits("folder", SETTINGS, photos)
    monkeypatch.setattr(holding, "MOST_IN_MEMORY", 2**30 if where == "memory" else 0)
    monkeypatch.setattr(holding, "OF_FREE_DISK", 0.0)
    settings = {**SETTINGS, **COLUMNS, "path": str(hub)}
    splits = load_splits("hfds", settings, hub)
    assert splits.classes == whole.classes == ("class0", "class1", "class2")
    for part in ("train", "test"):
        first, second = (next(getattr(s, part).in_order(20)) for s in (splits, whole))
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.target, second.target)
    task = task_of("hfds", settings, hub)
    assert (task.num_train, task.num_test, task.classes) == (12, 6, splits.classes)
    assert digest_of("hfds", settings, hub) != digest_of("hfds", {**settings, "test": "train"}, hub)


def test_what_is_wrong_is_told(hub):
    with pytest.raises(UserError, match=r"hfds: .*, dev, can't be read: "):
        load_splits("hfds", {**SETTINGS, **COLUMNS, "path": str(hub), "test": "dev"}, hub)
    with pytest.raises(UserError, match=r"hfds: .*, train, can't be read: "):
        load_splits("hfds", {**SETTINGS, **COLUMNS, "path": str(hub), "label": "kind"}, hub)

"""A downloaded data set is known by its name alone, so its files must be those that everybody has."""

from pathlib import Path

import pytest

from kdbench.data import load_splits
from kdbench.errors import UserError
from kdbench.vision.builtin import FASHION_MNIST


def test_other_files_under_the_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision itself reads whatever lies there."""
    monkeypatch.setattr("kdbench.vision.builtin._torchvision", lambda *given: None)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FASHION_MNIST:
        (raw / name).write_bytes(b"other pictures")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is not the original file"):
        load_splits("fashion_mnist", {}, tmp_path)

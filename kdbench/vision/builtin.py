"""Data sets that come with scikit-learn or torchvision.

They have no digest in a key: their files are known and checked whenever they are read, so the name says it all.
"""

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from kdbench.data import Splits, register_dataset
from kdbench.errors import UserError, first_line
from kdbench.locks import hold
from kdbench.method.contract import Task
from kdbench.vision.augment import Augment
from kdbench.vision.batches import AUGMENTS, Images, picture_task
from kdbench.vision.corruptions import corrupted

AUGMENTED: dict[str, Any] = {"augments": AUGMENTS, "augment_table": Augment, "corrupted": corrupted}


def fixed(num_classes: int, side: int, num_train: int, num_test: int) -> Callable[[Path], Task]:
    return lambda data_dir: picture_task(num_classes, side, num_train, num_test)


def images(pixels: Any, targets: Any) -> Images:
    """[N, H, W] or [N, H, W, C] of 0..255, and [N] labels."""
    pixels = np.ascontiguousarray(pixels, dtype=np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    return Images(torch.from_numpy(pixels), torch.as_tensor(np.asarray(targets), dtype=torch.int64))


@register_dataset("digits", info=lambda data_dir, size: picture_task(10, size, 1200, 597), **AUGMENTED)
def digits(data_dir: Path, size: Annotated[int, Field(ge=8, le=224)] = 8) -> Splits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, 10 classes: 1,200 to train, 597 to test (a fixed split).

    `size`: the side they are enlarged to (bilinear), so that nets and weights made for larger pictures fit.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    pixels = torch.from_numpy(data.images * (255 / 16))[:, None]  # [N, 1, 8, 8]
    if size != 8:
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False)
    grey, split = pixels[:, 0].round().numpy(), {"train_size": 1200, "stratify": data.target, "random_state": 0}
    train_x, test_x, train_y, test_y = train_test_split(grey, data.target, **split)
    return Splits(images(train_x, train_y), images(test_x, test_y), 10)


@register_dataset("cifar10", info=fixed(10, 32, 50_000, 10_000), **AUGMENTED)
def cifar10(data_dir: Path) -> Splits:
    """50,000 + 10,000 pictures, 32 x 32, 10 classes (Krizhevsky 2009)."""
    return _torchvision("CIFAR10", data_dir, 10, "cifar-10-batches-py/ (from cifar-10-python.tar.gz)")


@register_dataset("cifar100", info=fixed(100, 32, 50_000, 10_000), **AUGMENTED)
def cifar100(data_dir: Path) -> Splits:
    """50,000 + 10,000 pictures, 32 x 32, 100 classes (Krizhevsky 2009)."""
    return _torchvision("CIFAR100", data_dir, 100, "cifar-100-python/ (from cifar-100-python.tar.gz)")


@register_dataset("fashion_mnist", info=fixed(10, 28, 60_000, 10_000), **AUGMENTED)
def fashion_mnist(data_dir: Path) -> Splits:
    """60,000 + 10,000 grey pictures of clothes, 28 x 28, 10 classes (Xiao et al. 2017)."""
    splits = _torchvision("FashionMNIST", data_dir, 10, "FashionMNIST/raw/ with the four *-ubyte.gz files")
    _check_raw(data_dir / "FashionMNIST" / "raw")
    return splits


# SHA-256 of the unpacked files: torchvision checks the packed ones alone, and those only when it unpacks them.
FASHION_MNIST = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def _check_raw(folder: Path) -> None:
    """Raises UserError when these are not the pictures that everybody calls Fashion-MNIST: their key is the name."""
    for name, known in FASHION_MNIST.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != known:
            raise UserError(f"data set fashion_mnist: {folder / name} is not the original file; remove it")


def _torchvision(name: str, root: Path, num_classes: int, wanted: str) -> Splits:
    """Read (or download) through torchvision, which checks what it downloads, and CIFAR's files always."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)
    try:
        parts = [_open(cls, root, train) for train in (True, False)]
    except Exception as error:
        raise UserError(
            f"data set {name}: not found whole in {root}, and it could not be downloaded ({first_line(error)}); "
            f"put {wanted} into {root}, or name the folder that holds it with --data or KDBENCH_DATA"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    train, test = (images(np.asarray(part.data), np.asarray(part.targets)) for part in parts)
    return Splits(train, test, num_classes, classes=tuple(parts[0].classes))


def _open(cls: Any, root: Path, train: bool) -> Any:
    """`download=False` first: with the files at hand nothing is written and no network is asked."""
    try:
        return cls(root, train=train, download=False)
    except RuntimeError:
        with hold(root / f".{cls.__name__}.lock", waiting=lambda owner: None):  # several runs, one download
            return cls(root, train=train, download=True)

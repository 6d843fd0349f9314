"""Pictures a second: the loader alone against a bare torch DataLoader with the same transform.

    python tests/benchmarks/loader.py [--pictures 1024] [--size 224] [--rounds 5] [--folder DIR]

Every round takes one epoch with each, in turn: streamed (decoded from JPEGs), from a pack, from memory, and a
DataLoader whose workers decode, resize, cut and flip each picture and make a tensor of it, as the field's training
scripts do. Medians of the rounds' ratios. All give batches of floats, normalisation left to the net.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from common import CPU, machine, median, report, spread
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from kdbench.data import load_splits
from kdbench.suite.plugins import load_methods
from kdbench.vision import holding

sys.path.insert(0, str(Path(__file__).parents[1]))
from jpegs import folder_of_jpegs


class Bare(Dataset[tuple[torch.Tensor, int]]):
    """A folder's pictures: decoded, brought to one size, shifted by up to an eighth, flipped."""

    def __init__(self, files: list[str], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        size, pad = self.size, self.size // 8
        with Image.open(self.files[index]) as file:
            picture = ImageOps.exif_transpose(file).convert("RGB")
        fitted = np.asarray(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))
        row, column = (int(x) for x in torch.randint(0, 2 * pad + 1, (2,)))
        cut = np.pad(fitted, ((pad, pad), (pad, pad), (0, 0)))[row : row + size, column : column + size]
        cut = cut[:, ::-1] if torch.rand(()) < 0.5 else cut
        return torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1))).float().div_(255), 0


def loaded(root: Path, size: int, where: str, workers: int) -> Any:
    holding.MOST_IN_MEMORY = 2**40 if where == "memory" else 0
    holding.OF_FREE_DISK = 0.0 if where == "streamed" else 1.0
    settings = {"path": str(root), "size": size, "broken": "stop", "max_megapixels": None}
    train = load_splits("folder", settings, root).train
    return train if where == "memory" else replace(train, workers=workers)


def measured(batches: Iterator[Any], count: int) -> tuple[float, float]:
    """Pictures a second, and milliseconds of processors' time for one, which neighbours disturb less."""
    start, before = time.perf_counter(), processor_time()
    for batch in batches:
        del batch
    return count / (time.perf_counter() - start), 1000 * (processor_time() - before) / count


def processor_time() -> float:
    """Seconds, of this process and its workers."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--pictures", type=int, default=1024)
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--workers", type=int, default=torch.get_num_threads())
    options.add_argument("--folder", type=Path, help="of JPEGs with train/ and val/; else they are generated")
    given = options.parse_args()
    load_methods()
    with tempfile.TemporaryDirectory() as place:
        os.environ["KDBENCH_CACHE"] = f"{place}/cache"
        root = given.folder or folder_of_jpegs(Path(place) / "photos", given.pictures, 20)
        how = SimpleNamespace(batch_size=given.batch, augment="crop_flip")
        splits = {where: loaded(root, given.size, where, given.workers) for where in ("streamed", "pack", "memory")}
        count = len(splits["memory"])
        files = list(splits["streamed"].pixels.source.paths)
        bare = DataLoader(
            Bare(files, given.size), given.batch, shuffle=True, num_workers=given.workers, persistent_workers=True
        )
        ways: dict[str, Callable[[int], Iterator[Any]]] = {
            name: lambda number, split=split: split.epoch(how, 0, number) for name, split in splits.items()
        }
        ways["bare DataLoader"] = lambda number: iter(bare)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        costs: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(given.rounds + 1):
            for name, batches in ways.items():
                rate, cost = measured(batches(number), count)
                if number:  # the first round starts the workers and fills the disk's cache
                    rates[name].append(rate)
                    costs[name].append(cost)
    rows = []
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, rates["bare DataLoader"], strict=True)]
        took = {"pictures/s": median(found), "CPU ms a picture": median(costs[name])}
        rows.append({"loader": name, **took, "x bare": spread(ratios)})
    about = {"size": given.size, "batch": given.batch, "workers": given.workers, "pictures": count}
    report("loader", {**about, **machine(CPU)}, rows)


if __name__ == "__main__":
    main()

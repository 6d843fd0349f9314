"""Picture files, wherever they lie, and their pixels: decoded by several threads when they are asked for."""

import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from kdbench.errors import UserError
from kdbench.vision.decode import TooLarge, opened, own_limit
from kdbench.vision.sizing import Sized, fitted

Given = TypeVar("Given")
Made = TypeVar("Made")

MOST_WORKERS = 16
CHUNK = 8  # pictures that a thread decodes in one go


def workers() -> int:
    """As many threads as this process computes with: its share of the machine, where several train on it."""
    return max(1, min(MOST_WORKERS, torch.get_num_threads()))


def in_turn(make: Callable[[Given], Made], of: Iterable[Given], threads: int, most: int) -> Generator[Made, None, None]:
    """make(x) for each x, by so many threads, in the order of `of`; at most `most` are begun ahead of their turn."""
    pool, begun = ThreadPoolExecutor(threads, "pictures"), deque[Future[Made]]()
    try:
        for given in of:
            begun.append(pool.submit(make, given))
            if len(begun) > most:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Source(Protocol):
    """Picture files by number. Several threads ask at once."""

    def __len__(self) -> int: ...

    def name(self, place: int) -> str:
        """As people find it."""
        ...

    def content(self, place: int) -> bytes: ...


@dataclass(frozen=True)
class Files:
    """Files on a disk. `paths` as text: of a million, each `Path` would take a kilobyte."""

    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, place: int) -> str:
        return self.paths[place]

    def content(self, place: int) -> bytes:
        return Path(self.paths[place]).read_bytes()


class Decoder:
    """The pixels of a source, decoded anew whenever they are asked for. `pictures`: how many were decoded so far.

    `checksums` [N]: of the pixels that the key stands for, once they are known.
    """

    checksums: np.ndarray | None = None

    def __init__(self, source: Source, side: int, megapixels: float | None = None, sized: Sized = fitted) -> None:
        self.source, self.side, self.megapixels, self.sized = source, side, megapixels, sized
        self.pictures = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def fill(self, places: Sequence[int], rows: np.ndarray) -> None:
        """The pictures `places` into rows [M, side, side, 3] uint8.

        Raises UserError for one that can't be read, or is another by now: its cells' keys tell of what it was.
        """
        self.refuse(self.try_to_fill(places, rows))
        if self.checksums is not None and (changed := self.changed(places, rows, self.checksums)):
            raise UserError(f"pictures changed since this run began: {', '.join(changed)}; start it again")

    def refuse(self, broken: dict[int, str]) -> None:
        """Raises UserError where there are some."""
        if broken:
            raise UserError(f"pictures can't be read any more: {', '.join(broken.values())}")

    def changed(self, places: Sequence[int], rows: np.ndarray, checksums: np.ndarray) -> list[str]:
        """The names of those whose pixels have another checksum."""
        both = zip(places, rows, strict=True)
        return [self.source.name(place) for place, row in both if zlib.crc32(row) != checksums[place]]

    def try_to_fill(self, places: Sequence[int], rows: np.ndarray) -> dict[int, str]:
        """As `fill`, but tells which can't be read: place -> its name, and why if there is something to say."""

        def make(number: int, picture: Image.Image) -> None:
            rows[number] = np.asarray(self.sized(picture, self.side))

        return self.each(places, make)

    def each(self, places: Sequence[int], make: Callable[[int, Image.Image], None]) -> dict[int, str]:
        """make(number, picture) of every one of `places`; which can't be read. Raises UserError where one changed."""
        broken: dict[int, str] = {}
        with own_limit():
            for number, place in enumerate(places):
                try:
                    make(number, opened(self.content(place), self.megapixels))
                except UserError:
                    raise
                except (TooLarge, ValueError) as error:
                    broken[place] = f"{self.source.name(place)} ({error})"
                except Exception:
                    broken[place] = self.source.name(place)
        with self._lock:
            self.pictures += len(places)
        return broken

    def content(self, place: int) -> bytes:
        return self.source.content(place)

    def sums(self, first: int, rows: np.ndarray) -> list[int]:
        """Checksums of the pictures from `first` on, whose pixels are `rows`."""
        return [zlib.crc32(row) for row in rows]

    def survey(self, start: int = 0) -> Iterator[tuple[int, np.ndarray, dict[int, str]]]:
        """Decode every picture from `start` on once, a few at a time and in order: (number of the first, rows, which of
        these can't be read). Rows of those are zero; why is told as by `try_to_fill`.
        """

        def make(first: int) -> tuple[int, np.ndarray, dict[int, str]]:
            places = range(first, min(first + CHUNK, len(self)))
            rows = np.zeros((len(places), self.side, self.side, 3), np.uint8)
            return first, rows, self.try_to_fill(places, rows)

        return in_turn(make, range(start, len(self), CHUNK), workers(), 4 * workers())

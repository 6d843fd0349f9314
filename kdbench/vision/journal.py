"""What a survey that was killed had found: the next one goes on from there.

For every picture, in order: was it read (1) or broken (2), and its checksum. It stands beside the pack that is being
made, under the same name, so other pictures or another decoder have another one. Where a machine died, the pixels of a
pack are believed as far as they have their checksums.
"""

import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kdbench.vision.sources import Decoder

ENTRY = np.dtype([("state", "<u4"), ("sum", "<u4")])
WHOLE, BROKEN = 1, 2


class Journal:
    """`entries` [n]: what the file told, of the first n pictures; `added`: what was noted since."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.entries = path, np.zeros(0, ENTRY)
        self.added: list[np.ndarray] = []
        with suppress(OSError):
            content = path.read_bytes()
            found = np.frombuffer(content[: len(content) // ENTRY.itemsize * ENTRY.itemsize], ENTRY)[:count]
            wrong = np.flatnonzero(~np.isin(found["state"], (WHOLE, BROKEN)))  # pages that were never written
            self.entries = found[: wrong[0]] if len(wrong) else found

    def believe(self, pixels: BinaryIO, row: int) -> None:
        """Forget all from the first picture on whose `row` bytes of pixels are not what was noted."""
        pixels.seek(0)
        for number, entry in enumerate(self.entries):
            if zlib.crc32(content := pixels.read(row)) != entry["sum"] or len(content) != row:
                self.entries = self.entries[:number]
                return

    def begin(self) -> None:
        """Write what is known as the file's whole content."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(self.entries.tobytes())

    def add(self, first: int, sums: list[int], broken: dict[int, str]) -> None:
        """Of the pictures from `first` on, whose pixels are written."""
        states = [BROKEN if first + number in broken else WHOLE for number in range(len(sums))]
        new = np.array(list(zip(states, sums, strict=True)), ENTRY)
        self.added.append(new)
        with suppress(OSError), self.path.open("ab") as file:
            file.write(new.tobytes())

    def all_entries(self) -> np.ndarray:
        return np.concatenate([self.entries, *self.added])

    def broken(self, decoder: Decoder) -> dict[int, str]:
        """Why those that could not be read can't."""
        places = [int(place) for place in np.flatnonzero(self.entries["state"] == BROKEN)]
        rows = np.zeros((1, decoder.side, decoder.side, 3), np.uint8)
        return {name: why for place in places for name, why in decoder.try_to_fill([place], rows).items()}

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

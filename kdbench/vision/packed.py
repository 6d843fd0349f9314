"""A pack: pictures decoded once to one size and kept in a file, for several seeds, suites and processes.

It lies in the user's cache under a name made of the data's digest, so other data have another pack. Every picture has
its checksum, looked at whenever it is read; a damaged one is decoded anew. It is read piece by piece, not mapped: pages
of a mapped file would count as memory of this process.
"""

import json
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kdbench.files import read_checked, write_checked
from kdbench.locks import hold
from kdbench.vision.holding import packs
from kdbench.vision.journal import Journal
from kdbench.vision.sources import Decoder

VERSION = 1  # one more whenever a picture is decoded to other pixels


@dataclass(frozen=True)
class Name:
    """Of a pack or survey: `place`: what lies where (a part of a data set, a side); `data`: the digest of it all."""

    place: str
    data: str

    def file(self, ending: str) -> Path:
        return packs() / f"{self.place}-{self.data[:16]}-{VERSION}{ending}"

    def remove_older(self) -> None:
        """Packs of what lay there before."""
        for path in packs().glob(f"{self.place}-*"):
            if path.suffix in (".json", ".pixels", ".new", ".sums") and not path.name.startswith(self.file("").name):
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Survey:
    """What became known when all pictures were decoded: which are broken, and the pixels' checksums."""

    broken: dict[int, str]
    checksums: np.ndarray  # [N] uint32

    @staticmethod
    def read(name: Name, count: int) -> "Survey | None":
        """None where there is none, or a damaged one."""
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            about = json.loads(read_checked(name.file(".json")))
            broken = {int(place): str(why) for place, why in about["broken"].items()}
            checksums = np.array(about["checksums"], np.uint32)
            if len(checksums) == count and all(0 <= place < count for place in broken):
                return Survey(broken, checksums)
        return None

    def write(self, name: Name) -> None:
        about: dict[str, Any] = {"broken": self.broken, "checksums": self.checksums.tolist()}
        write_checked(name.file(".json"), json.dumps(about, separators=(",", ":")).encode())


class Pack:
    """The pixels of a decoder's pictures, read from a file. `damaged`: how many had to be decoded anew."""

    def __init__(self, path: Path, checksums: np.ndarray, decoder: Decoder) -> None:
        self.path, self.checksums, self.decoder = path, checksums, decoder
        self.damaged = 0

    @property
    def side(self) -> int:
        return self.decoder.side

    def fill(self, places: Sequence[int], rows: np.ndarray) -> None:
        """The pictures `places` into rows [M, side, side, 3] uint8."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # somebody cleared the cache
            self.decoder.fill(places, rows)
            return
        try:
            for row, place in zip(rows, places, strict=True):
                content = os.pread(file, row.nbytes, place * row.nbytes)
                if len(content) == row.nbytes and zlib.crc32(content) == self.checksums[place]:
                    row[...] = np.frombuffer(content, np.uint8).reshape(row.shape)
                else:
                    self.damaged += 1
                    self.decoder.fill([place], row[None])
        finally:
            os.close(file)


def obtain(
    decoder: Decoder, name: Name, keep: bool, waiting: Callable[[str], None] = lambda owner: None
) -> tuple[Pack | Decoder, dict[int, str]]:
    """The pack called `name`, made if it is not there and `keep` says so, else the decoder; and what is broken.

    A disk that fills up meanwhile is no mistake: then there is no pack. `waiting(owner)`: while another makes it.
    """
    with hold(name.file(".lock"), waiting):
        survey = Survey.read(name, len(decoder))
        if survey is None or (keep and not pack_is_whole(name, decoder)):
            survey = make(decoder, name, keep)
        decoder.checksums = survey.checksums
        if pack_is_whole(name, decoder):
            return Pack(name.file(".pixels"), survey.checksums, decoder), survey.broken
        return decoder, survey.broken


def pack_is_whole(name: Name, decoder: Decoder) -> bool:
    with suppress(OSError):
        return name.file(".pixels").stat().st_size == len(decoder) * decoder.side**2 * 3
    return False


def make(decoder: Decoder, name: Name, keep: bool) -> Survey:
    """Decode every picture once; with `keep` into a pack. One that was killed goes on where it stopped."""
    print(f"{len(decoder)} pictures are decoded once" + f", into {name.file('.pixels')}" * keep, file=sys.stderr)
    name.remove_older()
    journal = Journal(name.file(".sums"), len(decoder))
    survey = (_packed(decoder, name, journal) if keep else None) or _surveyed(decoder, journal)
    with suppress(OSError):  # else they are decoded again the next time
        survey.write(name)
        journal.remove()
    return survey


def _packed(decoder: Decoder, name: Name, journal: Journal) -> Survey | None:
    """None when it can't be written."""
    new, row = name.file(".new"), decoder.side**2 * 3
    try:
        with open(new, "r+b" if new.exists() else "w+b") as file:
            journal.believe(file, row)
            file.seek(len(journal.entries) * row)
            file.truncate()
            survey = _surveyed(decoder, journal, file)
        os.replace(new, name.file(".pixels"))
    except OSError:
        new.unlink(missing_ok=True)
        return None
    return survey


def _surveyed(decoder: Decoder, journal: Journal, pixels: BinaryIO | None = None) -> Survey:
    """Every picture decoded that the journal does not know; `pixels` gets theirs in order."""
    if len(journal.entries):
        print(f"{len(journal.entries)} of them are from a run that was ended; it goes on there", file=sys.stderr)
    broken = journal.broken(decoder)
    journal.begin()
    for first, rows, bad in decoder.survey(len(journal.entries)):
        if pixels is not None:
            pixels.write(rows.tobytes())
            pixels.flush()
        journal.add(first, decoder.sums(first, rows), bad)
        broken |= bad
    return Survey(broken, journal.all_entries()["sum"].astype(np.uint32))

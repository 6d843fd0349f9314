"""What is in files, as one digest. What was hashed is kept: the second time only names, sizes and times are read."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from kdbench.errors import UserError
from kdbench.files import cache_folder, write_atomic

JUST_NOW = 2 * 10**9  # ns: who writes twice within one tick of the file system's clock leaves the same time twice
THREADS = 8
TOGETHER = 64  # files that one thread takes: handing over each costs more than to hash it
AT_ONCE = 2**18  # bytes
UNREADABLE = "unreadable"

Stamp = list[int]  # size, times of change of content and of the file's entry, number of the file
Kept = dict[str, tuple[Stamp, str]]  # path -> stamp when it was hashed, hash


def digest_of_files(files: Mapping[str, str], about: Iterable[str] = ()) -> str:
    """Of names and contents, the first 32 hex digits. `files`: name -> path; `about`: other names that matter.

    The order of `files` counts for nothing, nor do their times. Raises UserError for names that aren't valid UTF-8.
    """
    whole = hashlib.sha256()
    hashes = _hashes(list(files.values()))
    for name, path in sorted(files.items()):
        whole.update(f"{_valid(name, path)}\0{hashes[path]}\n".encode())
    for name in about:
        whole.update(f"{_valid(name, name)}\n".encode())
    return whole.hexdigest()[:32]


def _valid(name: str, path: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(f"{shown}: its name is not valid UTF-8; rename it") from error
    return name


def _hashes(paths: list[str]) -> dict[str, str]:
    """Path -> hash of the content; of files that did not change since the last time from what is kept."""
    place = cache_folder("digests") / f"{hashlib.sha256(os.fsencode(_common(paths))).hexdigest()[:32]}.json"
    kept, now = _read(place), time.time_ns()
    stamps = {path: _stamp(path) for path in paths}
    found = {path: known[1] for path in paths if (known := kept.get(path)) and known[0] == stamps[path]}
    new = [path for path in paths if path not in found]
    groups = [new[start : start + TOGETHER] for start in range(0, len(new), TOGETHER)]
    with ThreadPoolExecutor(THREADS) as pool:  # a disk answers several at once
        for group, hashes in zip(groups, pool.map(lambda group: [*map(_hash, group)], groups), strict=True):
            found |= zip(group, hashes, strict=True)
    if new:
        keep = {path: (stamps[path], found[path]) for path in paths if stamps[path][1] < now - JUST_NOW}
        with suppress(OSError):  # a folder that can't be written: they are hashed again the next time
            write_atomic(place, json.dumps(keep, separators=(",", ":")).encode())
    return found


def _common(paths: list[str]) -> str:
    """The folder that holds all: it is that of the first and the last in order. Paths may be of both kinds."""
    if not paths:
        return ""
    ends = [min(paths), max(paths)]
    with suppress(ValueError):
        return os.path.commonpath(ends)
    return os.path.commonpath([os.path.abspath(path) for path in ends])


def _stamp(path: str) -> Stamp:
    try:
        about = os.stat(path)
    except OSError:
        return [0, 0, 0, 0]
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]


def _hash(path: str) -> str:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # for a small file `open` takes longer than the hash
        try:
            found = hashlib.blake2b(digest_size=16)
            while part := os.read(file, AT_ONCE):
                found.update(part)
            return found.hexdigest()
        finally:
            os.close(file)
    except OSError:
        return UNREADABLE  # who reads the data says so


def _read(place: Any) -> Kept:
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        read = json.loads(place.read_bytes())
        return {str(path): (list(stamp), str(found)) for path, (stamp, found) in read.items()}
    return {}

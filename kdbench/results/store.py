"""A results folder in a store that fsspec knows (`s3://bucket/results`): worked on in a local copy of it.

What is finished goes there as it comes into being: records, students, teachers, tables. Weights go before the records
that speak of them, and come so. What lasts no longer than a run stays here: locks, checkpoints, MLflow's files. Where
both sides changed a file, the store's counts.
"""

import errno
import hashlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from kdbench.errors import UserError, first_line
from kdbench.files import CannotWrite, cache_folder, write_atomic, write_json
from kdbench.layout import Layout

EVERY = 5.0  # seconds between two looks at what is to be sent
GONE = 600.0  # seconds after which a run that says nothing is taken for dead
# What changes with a file, as the stores call it.
MARKS = ("ETag", "etag", "md5Hash", "crc32c", "LastModified", "mtime", "created", "updated", "size")
COMMANDS = ("run", "plan", "leaderboard", "recommend", "export", "submit")  # that know results in a store
WEIGHTS = (".safetensors", ".onnx")

Say = Callable[[str], None]


def is_url(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and "://" in text


def place_of(text: str) -> Path | str:
    """A URL stays what it is: a path would make one slash of two."""
    return text if is_url(text) else Path(text)


class Store:
    """`url`: of the folder; `local`: its copy here, always the same one."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.fs, self.root = opened(self.url)
        place = cache_folder("results") / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.local, self.index, self.turn = place, place.with_suffix(".json"), threading.Lock()
        self.known: dict[str, list[str]] = {}  # name -> its mark here and there, when it was last the same
        with suppress(OSError, ValueError):
            self.known = json.loads(self.index.read_bytes())

    @property
    def owner(self) -> str:
        """A file beside the folder: who runs on it."""
        return f"{self.root}.owner"

    def fetch(self, weights: bool = True) -> None:
        """What is new there; `weights`: those of students and teachers too. Raises UserError."""
        self.fs.invalidate_cache()
        self.local.mkdir(parents=True, exist_ok=True)
        found = self.fs.find(self.root, detail=True)
        there = {path[len(self.root) + 1 :]: found[path] for path in found if path.startswith(f"{self.root}/")}
        for name in sorted(there, key=lambda name: (not name.endswith(WEIGHTS), name)):
            path, mark = self.local / name, mark_of(there[name])
            if not is_within(name):
                raise UserError(f"{self.url}: {name!r} is no file of a results folder")
            same = path.is_file() and self.known.get(name, ["", ""])[1] == mark
            if not same and (weights or not name.endswith(WEIGHTS)):
                write_atomic(path, self.fs.cat_file(f"{self.root}/{name}"))
                self.known[name] = [mark_here(path), mark]
        self.note()

    def send(self) -> None:
        """What is new here."""
        with self.turn:
            for path in Layout(self.local).finished():
                name = path.relative_to(self.local).as_posix()
                with suppress(FileNotFoundError):  # removed meanwhile
                    if (mark := mark_here(path)) != self.known.get(name, [""])[0]:
                        there = f"{self.root}/{name}"
                        self.fs.makedirs(there.rpartition("/")[0], exist_ok=True)
                        self.fs.pipe_file(there, path.read_bytes())
                        self.known[name] = [mark, mark_of(self.fs.info(there))]
            self.note()

    @contextmanager
    def told(self, kind: Callable[[str], Exception]) -> Iterator[None]:
        """What the store raises, in one line."""
        try:
            yield
        except (UserError, CannotWrite):
            raise
        except Exception as error:
            raise kind(f"{self.url}: {first_line(error)}; nothing is lost, it lies in {self.local}") from error

    def note(self) -> None:
        write_json(self.index, self.known)

    @contextmanager
    def owned(self, say: Say) -> Iterator[None]:
        """Whoever else wants to run on it is refused meanwhile, as far as the store can do that. Raises UserError."""
        with self.told(UserError):
            self.take(say)
        over = threading.Event()
        watch = threading.Thread(target=self.keep_sending, args=(over, say), daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
            with suppress(Exception):
                self.fs.rm_file(self.owner)

    def take(self, say: Say) -> None:
        with suppress(FileNotFoundError, ValueError, KeyError):
            other = json.loads(self.fs.cat_file(self.owner))
            if time.time() - float(other["time"]) < GONE:
                raise UserError(
                    f"{self.url} is in use by {other['who']}: two runs would do the same cells. If that one is dead, "
                    f"wait ten minutes or remove {self.url}.owner"
                )
            self.fs.rm_file(self.owner)
        self.fs.makedirs(self.owner.rpartition("/")[0], exist_ok=True)
        try:
            self.fs.pipe_file(self.owner, self.word(), mode="create")
        except FileExistsError as error:
            raise UserError(f"{self.url}: another run began on it just now") from error
        except (NotImplementedError, TypeError, ValueError):
            self.fs.pipe_file(self.owner, self.word())
            say(f"{self.url} has no locks: start no other run on it at the same moment")

    def word(self) -> bytes:
        who = f"{platform.node()}, process {os.getpid()}"
        return json.dumps({"who": who, "time": time.time()}).encode()

    def keep_sending(self, over: threading.Event, say: Say) -> None:
        """Until the run is over. What fails is said once, and tried again."""
        said, beat = False, time.monotonic()
        while not over.wait(EVERY):
            try:
                self.send()
                if time.monotonic() - beat > GONE / 10:
                    self.fs.pipe_file(self.owner, self.word())
                    beat = time.monotonic()
            except Exception as error:
                if not said:
                    say(f"{self.url} can't be written just now ({first_line(error)}); it is tried again")
                said = True


@contextmanager
def copied(url: str, command: str, say: Say) -> Iterator[Path]:
    """A local folder that stands for the one at `url`, for a command; what it changes is sent.

    Raises UserError, and at the end ConnectionError.
    """
    if command not in COMMANDS:
        raise UserError(f"--results {url}: `kdbench {command}` takes a folder of this machine")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"--results {url}: under torchrun give a folder that all machines share")
    store = Store(url)
    with store.owned(say) if command == "run" else nullcontext():
        with store.told(UserError):
            store.fetch(weights=command not in ("plan", "leaderboard"))
        try:
            yield store.local
        finally:
            with store.told(partial(ConnectionError, errno.EIO)):
                store.send()


def opened(url: str) -> tuple[Any, str]:
    """The file system and the path in it. Raises UserError."""
    try:
        import fsspec
    except ImportError as error:
        raise UserError("--results in a store needs fsspec: pip install 'kdbench[remote]'") from error
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UserError(f"--results {url}: {error}") from error
    return fs, str(root).rstrip("/")


def is_within(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def mark_of(info: dict[str, Any]) -> str:
    """Another one when the file in the store is another."""
    return " ".join(f"{name}={info[name]}" for name in MARKS if name in info)


def mark_here(path: Path) -> str:
    found = path.stat()
    return f"{found.st_mtime_ns} {found.st_size}"

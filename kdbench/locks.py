"""Locks between processes that share a results folder.

They are the operating system's locks on a file (flock): gone when their owner is, however it died, so that no
heartbeat and no clean-up is needed, and what it worked on is taken over. Over NFS they are locks of the server's
(NFS 4, or 3 with lockd), gone when the client's lease has run out. A file system without such locks is refused: two
runs there would do the same cells. Who holds a lock stands beside it, for people to read; nothing is decided by that.
"""

import errno
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from kdbench.errors import UserError

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def attempt(path: Path) -> Iterator[bool]:
    """`with attempt(path) as mine:` the lock at `path`, if nobody holds it. Never waits.

    Raises UserError on a file system without locks, OSError when the folder can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, note = FileLock(path), path.with_suffix(".owner")
    if not _acquire(lock):
        yield False
        return
    try:
        with suppress(OSError):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            note.write_text(f"{platform.node()}, process {os.getpid()}, since {since}", encoding="utf-8")
        yield True
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def hold(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """The lock at `path`, as soon as it is free; until then `waiting(owner)` is called, and may raise to give up."""
    while True:
        with attempt(path) as mine:
            if mine:
                yield
                return
        waiting(owner_of(path))
        time.sleep(0.2)


def is_held(path: Path) -> bool:
    """Does a process hold the lock at `path` just now?"""
    with attempt(path) as mine:
        return not mine


def owner_of(path: Path) -> str:
    """Who holds the lock at `path`, as far as it is known."""
    try:
        return path.with_suffix(".owner").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return "another process"


def _acquire(lock: FileLock) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it falls back to a file's mere existence, which is refused below
            lock.acquire(timeout=0)
    except Timeout:
        return False
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        raise UserError(_without_locks(lock)) from error
    if isinstance(lock, SoftFileLock):
        lock.release()
        raise UserError(_without_locks(lock))
    return True


def _without_locks(lock: FileLock) -> str:
    folder = Path(lock.lock_file).parent
    return f"{folder} is on a file system without locks, so two runs could do the same cells; give another --results"

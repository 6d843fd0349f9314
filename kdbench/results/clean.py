"""`kdbench clean`: lists, then removes, what no record needs."""

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kdbench.layout import Layout, SuiteFolder, TeacherFolder
from kdbench.locks import attempt
from kdbench.plain import several
from kdbench.results.answers import alike, names_in, take_out
from kdbench.results.checkpoints import SUFFIX
from kdbench.results.records import Records, is_final
from kdbench.results.schema import Record
from kdbench.suite.cells import fingerprint

DAY = 24 * 3600.0
# What `write_atomic` writes before it renames.
ASIDE = re.compile(r"^\..+\.(json|safetensors|ckpt|md|csv|tex|html|parquet)\.\w{8}$")


def unneeded(results: Path, suite: str | None = None) -> Iterator[tuple[Path, str]]:
    """Files that no record needs, with the reason; of one suite or of all. What a run may be at work on is left out.

    Until the next one is asked for, the locks are held that a run would need to be at work on it.
    """
    teachers: set[str] = set()
    layout = Layout(results)
    for folder in layout.suites():
        with all_of(folder.locks.glob("*.lock")) as mine:
            records = {record["key"]: record for record in Records(results, folder.name).read_all()}
            teachers |= {key for record in records.values() for key in teachers_of(record)}
            if mine and suite in (None, folder.name):
                yield from of_suite(folder, records)
    with all_of(layout.cohort_locks()) as mine:  # a run may have loaded a teacher that no record names yet
        if suite is None and mine:
            yield from of_teachers(layout.teachers, teachers)
    for path in sorted((results / (suite or "")).rglob(".*")):
        if ASIDE.match(path.name) and is_old(path):
            yield path, "half written when a run died"


def of_suite(folder: SuiteFolder, records: dict[str, Record]) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.checkpoints.glob(f"*{SUFFIX}")):
        if is_final(records.get(path.name.split(".")[0])):
            yield path, "a checkpoint of a finished cell"
    for path in sorted(folder.students.glob("[!.]*.*")):
        if not folder.record(path.stem).exists():
            yield path, "a student without a record"
    if shared := folder.all_answers():
        referred = {name for path in folder.records.glob("*.json") for name in names_in(path.read_bytes())}
        yield from ((path, "answers that no record refers to") for path in shared if path.stem not in referred)
    for path in sorted(folder.locks.glob("*.lock")):
        yield path, "a lock that nobody holds"


def of_teachers(folder: TeacherFolder, needed: set[str]) -> Iterator[tuple[Path, str]]:
    for path in sorted(folder.checkpoints.glob(f"*{SUFFIX}")):
        if folder.record(path.name.split(".")[0]).exists():
            yield path, "a checkpoint of a finished teacher"
    for path in sorted(folder.path.glob("[!.]*.*")):
        known = path.suffix not in (".json", ".safetensors") or path.stem in needed
        if not known and is_old(path):  # a younger one may belong to a run that is interrupted just now
            lock = folder.lock(path.stem)
            was_there = lock.exists()
            with attempt(lock) as mine:
                if mine:
                    yield path, "a teacher that no record refers to"
                    if not was_there:
                        lock.unlink(missing_ok=True)
    for path in folder.locks():
        with attempt(path) as mine:
            if mine:
                yield path, "a lock that nobody holds"


@contextmanager
def all_of(locks: Iterable[Path]) -> Iterator[bool]:
    """Hold all the locks, or say that somebody has one of them."""
    with ExitStack() as held:
        yield all(held.enter_context(attempt(lock)) for lock in sorted(locks))


def teachers_of(record: Record) -> Iterator[str]:
    """Keys of the record's teacher, of that one's own, and so on upwards; and of one that its student begins with."""
    settings = record["settings"]
    if isinstance(begins := settings.get("begins"), dict):
        yield str(begins.get("teacher"))
    above = settings.get("teacher")
    while isinstance(above, dict):
        data = {name: settings[name] for name in ("data", "data_code") if name in settings}
        shared = {name: settings.get(name) for name in ("format", "dataset", "validation")}
        yield fingerprint({**shared, **data, **above})
        above = above.get("taught_by")


def is_old(path: Path) -> bool:
    return path.exists() and time.time() - path.stat().st_mtime > DAY


def clean(results: Path, remove: bool, suite: str | None = None) -> str:
    """What was found, a line a file; with `remove` it is gone."""
    lines, total = [], 0
    for path, reason in unneeded(results, suite):
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # who held a lock is named beside it no longer
            continue
        lines.append(f"{size / 2**20:8.1f} MiB  {path}  ({reason})")
        total += size
        if remove:
            with suppress(FileNotFoundError):
                path.unlink()
    if not lines:
        return f"{results} holds nothing that could go"
    what = "removed" if remove else "could go: remove them with --yes"
    return "\n".join([*lines, f"{len(lines)} files, {total / 2**20:.1f} MiB {what}"])


def share(results: Path, suite: str) -> str:
    """Take out of a suite's records what two or more say alike, so that it stands beside them once."""
    folder, records = Layout(results).suite(suite), Records(results, suite)
    with all_of(folder.locks.glob("*.lock")) as mine:
        if not mine:
            return f"{folder.path} is in use: try again when its run is over"
        names = alike(records.iterate())
        saved = [take_out(folder.record(record["key"]), names) for record in records.iterate()]
    return f"{folder.path}: {several(len(saved), 'record')}, {sum(saved) / 2**20:.1f} MiB less"

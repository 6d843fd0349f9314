"""`kdbench clean`: lists, then removes, what no record needs."""

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from kdbench.checkpoint import SUFFIX
from kdbench.records import Record, Records, is_final

DAY = 24 * 3600.0
ASIDE = re.compile(
    r"^\..+\.(json|safetensors|ckpt|md|csv|html)\.\w{8}$"
)  # what `write_atomic` writes before it renames


def rubbish(results: Path) -> Iterator[tuple[Path, str]]:
    """Files that no record needs, with the reason. What a run may still be at work on is left out."""
    teachers: set[str] = set()
    for folder in sorted(path.parent for path in results.glob("*/records")):
        records = {record["key"]: record for record in Records(results, folder.name).read_all()}
        teachers |= {str(record.get("teacher_key")) for record in records.values()}
        if not in_use(folder):
            yield from of_suite(folder, records)
    for path in sorted((results / "teachers").glob("*.*")):
        kept = path.name.startswith(".") or path.stem in teachers or path.suffix not in (".json", ".safetensors")
        if not kept and is_old(path):  # a younger one may belong to a run that is interrupted just now
            yield path, "a teacher that no record refers to"
    for path in sorted(results.rglob(".*")):
        if ASIDE.match(path.name) and is_old(path):
            yield path, "half written when a run died"


def of_suite(folder: Path, records: dict[str, Record]) -> Iterator[tuple[Path, str]]:
    for path in sorted((folder / "checkpoints").glob(f"*{SUFFIX}")):
        if is_final(records.get(path.name.split(".")[0])):
            yield path, "a checkpoint of a finished cell"
    for path in sorted((folder / "students").glob("*.safetensors")):
        if records.get(path.stem, {}).get("status") != "done":
            yield path, "a student without a record"
    for path in sorted((folder / ".locks").glob("*")):
        yield path, "a lock that nobody holds"


def in_use(folder: Path) -> bool:
    """Does a process work on the suite of this folder?"""
    for path in (folder / ".locks").glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            return True
    return False


def is_old(path: Path) -> bool:
    return path.exists() and time.time() - path.stat().st_mtime > DAY


def clean(results: Path, remove: bool) -> str:
    """What was found, a line a file; with `remove` it is gone."""
    lines, total = [], 0
    for path, reason in list(rubbish(results)):
        size = path.stat().st_size
        lines.append(f"{size / 2**20:8.1f} MiB  {path}  ({reason})")
        total += size
        if remove:
            with suppress(FileNotFoundError):
                path.unlink()
    if not lines:
        return f"{results} holds nothing that could go"
    what = "removed" if remove else "could go: remove them with --yes"
    return "\n".join([*lines, f"{len(lines)} files, {total / 2**20:.1f} MiB {what}"])

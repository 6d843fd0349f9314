"""A submitted archive, opened as what a stranger sent: nothing in it is run, and nothing is written elsewhere.

What may be in it is a closed list of names. Its files are written anew, so a link in it is no link here.
"""

import hashlib
import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.layout import is_reserved
from kdbench.plain import harmless
from kdbench.suite.check_training import tables
from kdbench.suite.yaml_lines import read_yaml

FORMAT = 1
ABOUT, SUITE, CODE, RESULTS = "submission.json", "suite.yaml", "code", "results"
KEY, NAME = "[0-9a-f]{20}", "[A-Za-z0-9_][A-Za-z0-9_.-]*"
MAY_BE = re.compile(
    rf"{ABOUT}|{SUITE}|{CODE}/{NAME}\.py|{RESULTS}/(?!teachers/){NAME}/(records/{KEY}\.json|students/{KEY}\.safetensors)"
    rf"|{RESULTS}/teachers/{KEY}\.(json|safetensors)"
)
MOST_FILES = 10_000
MOST_BYTES = 4 * 2**30  # of all files, unpacked
MOST_OF = {".json": 2**26, ".yaml": 2**20, ".py": 2**20, ".safetensors": 2**30}


@dataclass(frozen=True)
class Submission:
    """Unpacked into `folder`. `code`: its Python files, none of which has run. `wrong`: what is not as packed."""

    folder: Path
    suite: str
    rows: list[str]
    code: list[str]
    wrong: list[str]

    @property
    def results(self) -> Path:
        return self.folder / RESULTS

    @property
    def suite_file(self) -> Path:
        return self.folder / SUITE


def unpack(archive: Path, folder: Path) -> Submission:
    """Write its files into the empty `folder`. Raises UserError for what is no submission, or an unsafe one."""
    try:
        with zipfile.ZipFile(archive) as opened:
            check_names(opened.infolist())
            wrong = [*written(opened, folder)]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive}: can't be read as a zip archive: {harmless(str(error))}") from error
    about = described(folder, archive)
    wrong += other_hashes(folder, about.get("files"))
    names = sorted(path.name for path in (folder / CODE).glob("*.py"))
    submission = Submission(folder, about["suite"], about["rows"], names, wrong)
    check_suite(submission, archive)
    return submission


def check_names(entries: list[zipfile.ZipInfo]) -> None:
    """Raises UserError for names that may not be, for too many files and for too large ones, before any is unpacked."""
    if len(entries) > MOST_FILES or sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise UserError(f"has more than {MOST_FILES} files or {MOST_BYTES} bytes unpacked: too much for a submission")
    count = Counter(entry.filename for entry in entries)
    wrong = [
        f"{harmless(name)}: no such file belongs into a submission" for name in count if not MAY_BE.fullmatch(name)
    ]
    wrong += [f"{harmless(name)}: stands in it {times} times" for name, times in count.items() if times > 1]
    wrong += [
        f"{harmless(entry.filename)}: {entry.file_size} bytes are too many" for entry in entries if too_large(entry)
    ]
    if wrong:
        raise UserError("\n".join(wrong[:20]))


def too_large(entry: zipfile.ZipInfo) -> bool:
    return entry.file_size > MOST_OF.get(Path(entry.filename).suffix, MOST_BYTES)


def written(opened: zipfile.ZipFile, folder: Path) -> Iterator[str]:
    """Write every file; zipfile stops where one is longer than it says. Tells which ones are damaged."""
    for entry in opened.infolist():
        path = folder / entry.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with opened.open(entry) as source, path.open("wb") as target:
                while part := source.read(2**20):
                    target.write(part)
        except zipfile.BadZipFile:
            yield f"{entry.filename} is damaged"


def described(folder: Path, archive: Path) -> dict[str, Any]:
    """What it says of itself, checked. Raises UserError."""
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        suite, rows = about["suite"], about["rows"]
        good = re.fullmatch(NAME, suite) and not is_reserved(suite) and all(isinstance(row, str) for row in rows)
        if not good or about["format"] != FORMAT or not (folder / SUITE).is_file():
            raise ValueError
        return {"suite": suite, "rows": [harmless(row) for row in rows], "files": about.get("files")}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{archive}: is no submission that `kdbench submit` packed") from error


def other_hashes(folder: Path, files: Any) -> Iterator[str]:
    """Files that are not those that were packed."""
    known = files if isinstance(files, dict) else {}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in sorted({*known, *there} - {ABOUT}):
        path = there.get(name)
        if path is None:
            yield f"{harmless(name)} was packed and is not there"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != known.get(name):
            yield f"{name} is not the file that was packed"


def texts(data: Any) -> Iterator[str]:
    """All that stands in a suite."""
    if isinstance(data, str):
        yield data
    for part in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from texts(part)


def leads_out(text: str) -> bool:
    """Would it, as a path, lead out of a folder? A net's checkpoint, or a folder of pictures."""
    return text.startswith(("/", "~")) or ".." in Path(text).parts


def check_suite(submission: Submission, archive: Path) -> None:
    """Its suite may name no code but what lies in the archive: reading a suite runs its plugins. Raises UserError."""
    data = read_yaml(submission.suite_file).data
    listed = data.get("plugins") or []
    mine = {f"{CODE}/{name}" for name in submission.code}
    recipes = [table["recipe"] for _, table in tables(data) if "recipe" in table]  # packed ones are written out
    if "extends" in data or recipes or not isinstance(listed, list) or not {*map(str, listed)} <= mine:
        raise UserError(f"{archive}: its suite names files that are not in it; `kdbench submit` packs none such")
    if outside := sorted({text for text in texts(data) if leads_out(text)}):
        raise UserError(f"{archive}: its suite names places outside of it: {', '.join(outside)}")
    if data.get("name") != submission.suite:
        raise UserError(f"{archive}: its suite has another name than its results")
    folders = {path.name for path in submission.results.glob("*/") if path.is_dir()} - {"teachers", submission.suite}
    if folders:
        raise UserError(f"{archive}: holds results of other suites: {', '.join(sorted(folders))}")

"""Packs rows of a suite into one archive for others to judge: suite, code, records, students, teachers."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdbench.errors import UserError, unknown
from kdbench.files import write_atomic
from kdbench.gathered import Gathered, gather
from kdbench.layout import Layout, TeacherFolder
from kdbench.options import Options
from kdbench.registry import hash_of_file
from kdbench.results.answers import whole_bytes
from kdbench.results.records import Records
from kdbench.suite.cells import Cell
from kdbench.suite.load import read_with_bases
from kdbench.suite.recipes import expand
from kdbench.suite.shipped import suite_path
from kdbench.suite.starts import teaching, with_starts
from kdbench.verify.archive import ABOUT, CODE, FORMAT, RESULTS, SUITE

CODES = ("code", "data_code", "transform_code", "metric_code")  # entries of settings: name -> hash
HAVE_CODE = ("student", "teacher", "model", "taught_by")  # entries that may hold such ones
Files = dict[str, bytes]  # name in the archive -> content


def pack(suite: Path, rows: Sequence[str], options: Options, output: Path) -> list[str]:
    """Write the archive; gives the names of what is in it. Raises UserError with all that is wrong."""
    gathered = gather(suite, options)
    cells, wrong = asked_cells(gathered, rows), []
    files = {SUITE: suite_alone(suite, gathered.suite.plugins), **code(gathered.suite.plugins)}
    wrong += other_files(cells, gathered.suite.plugins)
    records = Records(options.results, gathered.suite.name).read_many(cell.key for cell in cells)
    wrong += [f"{c.title}: is not done" for c in cells if records.get(c.key, {}).get("status") != "done"]
    if wrong:
        raise UserError("\n".join(wrong))
    files |= results_of(cells, options.results)
    about = {"format": FORMAT, "suite": gathered.suite.name, "rows": [*rows]}
    about["files"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files[ABOUT] = json.dumps(about, indent=1).encode()
    write_archive(output, files)
    return sorted(files)


def asked_cells(gathered: Gathered, rows: Sequence[str]) -> list[Cell]:
    """Those of the rows, and those whose students theirs begin with."""
    labels = {cell.label for cell in gathered.cells}
    if wrong := [unknown("row", row, labels) for row in rows if row not in labels]:
        raise UserError("\n".join(wrong))
    return with_starts(cell for cell in gathered.cells if cell.label in rows)


def suite_alone(suite: Path, plugins: Iterable[Path]) -> bytes:
    """The suite as one file: what it extends and its recipes are in it, and its code stands in the archive."""
    document = read_with_bases(suite_path(suite))
    expand(document)  # recipes, which may be files beside it
    data: dict[str, Any] = dict(document.data)
    data.pop("extends", None)
    data["plugins"] = [f"{CODE}/{path.name}" for path in plugins]
    return yaml.safe_dump({k: v for k, v in data.items() if v != []}, sort_keys=False, allow_unicode=True).encode()


def code(plugins: Sequence[Path]) -> Files:
    """Raises UserError where two files have one name."""
    names = [path.name for path in plugins]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two plugins are called {', '.join(sorted(doubled))}: give one of them another name")
    return {f"{CODE}/{path.name}": path.read_bytes() for path in plugins}


def other_files(cells: Iterable[Cell], plugins: Iterable[Path]) -> list[str]:
    """What else a cell rests on that can't be packed, in words."""
    packed, wrong = {hash_of_file(path.read_bytes()) for path in plugins}, dict[str, None]()
    for cell in cells:
        for name, digest in codes_of(cell.identity).items():
            if digest not in packed:
                wrong[f"{name}: its code imports files beside its own; put it into one file to submit it"] = None
        for spec in (*(link.teacher for link in cell.lineage), cell.student):
            if spec.checkpoint is not None:
                wrong[f"{spec.short}: begins with {spec.checkpoint}, which is not packed"] = None
    return [*wrong]


def codes_of(settings: dict[str, Any]) -> dict[str, str]:
    """Name -> hash of all code in a cell's settings that came in by plugins: its own, its nets', its teachers'."""
    found: dict[str, str] = {}
    for name, part in settings.items():
        if isinstance(part, dict) and name in CODES:
            found |= {entry: str(digest) for entry, digest in part.items()}
        elif isinstance(part, dict) and name in HAVE_CODE:
            found |= codes_of(part)
    return found


def results_of(cells: Sequence[Cell], results: Path) -> Files:
    """Records, students and teachers, as they lie in a results folder."""
    place, teachers = Layout(results).suite(cells[0].suite), Layout(results).teachers
    paths = [path for cell in cells for path in (place.record(cell.key), place.student(cell.key))]
    keys = {key: None for cell in cells for key in teaching(cell)}
    paths += [path for key in keys for path in of_teacher(teachers, key)]
    names = {path: f"{RESULTS}/{path.relative_to(results).as_posix()}" for path in paths if path.is_file()}
    return {name: whole_bytes(path) if path.suffix == ".json" else path.read_bytes() for path, name in names.items()}


def of_teacher(teachers: TeacherFolder, key: str) -> list[Path]:
    return [teachers.record(key), teachers.weights(key)]


def write_archive(output: Path, files: Files) -> None:
    """A zip; the same files make the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    write_atomic(output, buffer.getvalue())

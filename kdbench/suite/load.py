"""A suite file: YAML -> checked, frozen `Suite`.

Everything that can be wrong is looked for before anything is built (`checks.py`), and all mistakes are told at once,
each with its file, line and place. What the file may hold is in `spec.py`, an objective in `objectives.py`; how
cells are keyed is in `cells.py`.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.suite.checks import check, check_models
from kdbench.suite.evaluation import SCORE_ALONE, Evaluate
from kdbench.suite.objectives import ByPair, by_pair, is_reference, objective
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.suite.recipes import expand, kept
from kdbench.suite.shipped import nearest, shipped, suite_path
from kdbench.suite.spec import Adapt, DatasetSpec, ModelSpec, SuiteFile, TeacherSpec, TeacherTrain, Train, parse
from kdbench.suite.steps import Step, start_of, steps_of
from kdbench.suite.training import FurtherTrain
from kdbench.suite.yaml_lines import Document, Place, read_yaml


@dataclass(frozen=True)
class Suite:
    """A checked suite. `objectives`: a row's label and, by pair, its weighted methods, every setting filled in.

    `places`: where each of `pairs` stands, for messages (`suites/x.yaml:12: pairs[1]`).
    """

    path: Path
    name: str
    datasets: tuple[DatasetSpec, ...]
    pairs: tuple[tuple[TeacherSpec, ModelSpec, Train], ...]
    places: tuple[str, ...]
    objectives: dict[str, ByPair]
    seeds: tuple[int, ...]
    row_seeds: dict[str, tuple[int, ...]]  # of the rows that have seeds of their own
    controls: dict[str, str]  # of the rows whose teacher is a control
    validation: float
    teacher_train: TeacherTrain
    starts: tuple[int | None, ...]  # of each pair: the one whose students its own begin with
    then: dict[str, tuple[Step, ...]]  # of the rows whose students are converted
    adapt: tuple[Adapt, Train] | None  # what its students learn afterwards, and how
    labels: dict[str, str]  # of the rows whose training may not read them
    evaluate: Evaluate = SCORE_ALONE
    plugins: tuple[Path, ...] = ()  # the files that hold methods, data sets and nets of its own


def load_suite(path: Path | str, plugins: tuple[Path, ...] = (), models: bool = True) -> Suite:
    """Read and check a suite. Raises UserError with one line per mistake.

    `path`: a file, or the name of a suite that comes with kdbench.
    `models`: look whether timm knows them; what only reads records need not wait for timm.
    """
    path = suite_path(Path(path))
    document = read_with_bases(path)
    load_methods()
    problems, files = _load_plugins(document, plugins)
    problems += expand(document)
    problems += list(check(document))
    problems += list(check_models(document)) if models else []
    if problems:
        lines = dict.fromkeys(f"{document.where(place)}: {' '.join(text.splitlines())}" for place, text in problems)
        raise UserError("\n".join(sorted(lines, key=_line_order)))
    file = SuiteFile.model_validate_json(json.dumps(document.data))
    train = document.data["train"]
    return Suite(
        path=path,
        name=file.name,
        datasets=file.datasets,
        pairs=tuple(
            (p.teacher, p.student, parse(FurtherTrain if p.student.start else Train, {**train, **p.train}))
            for p in file.pairs
        ),
        places=tuple(document.where(("pairs", number)) for number in range(len(file.pairs))),
        objectives={
            label: {pairs: objective(terms) for pairs, terms in by_pair(row).items()}
            for label, row in file.methods.items()
        },
        seeds=file.seeds,
        row_seeds=_row_seeds(file),
        controls={label: row["teacher"] for label, row in file.methods.items() if row.get("teacher")},
        validation=file.validation,
        teacher_train=parse(TeacherTrain, {**train, **file.teacher_train}),
        starts=tuple(
            start_of(n, document.data["pairs"]) if p.student.start_row else None for n, p in enumerate(file.pairs)
        ),
        then={label: steps_of(row["then"]) for label, row in file.methods.items() if row.get("then")},
        evaluate=file.evaluate,
        adapt=(file.then, parse(Train, {**train, **file.then.train})) if file.then else None,
        labels={label: row["labels"] for label, row in file.methods.items() if row.get("labels")},
        plugins=files,
    )


def _row_seeds(file: SuiteFile) -> dict[str, tuple[int, ...]]:
    """Those of the rows that have others than the suite's: their own, or those of the references."""
    found = {}
    for label, row in file.methods.items():
        if row.get("seeds"):
            found[label] = tuple(row["seeds"])
        elif file.reference_seeds and is_reference(label, row):
            found[label] = file.reference_seeds
    return found


def read_with_bases(path: Path, seen: tuple[Path, ...] = ()) -> Document:
    """The document with what it `extends` merged below it: tables are merged, all else (and each row) is replaced."""
    document = read_yaml(path)
    base_name = document.data.get("extends")
    if isinstance(base_name, str):
        base_path = _base_path(path, base_name)
        if base_path.resolve() in (*seen, path.resolve()):
            raise UserError(f"{document.where(('extends',))}: {base_name} extends itself")
        if not base_path.is_file():
            raise UserError(f"{document.where(('extends',))}: no such file: {base_path}{nearest(base_path)}")
        base = read_with_bases(base_path, (*seen, path.resolve()))
        document.data = _merge(base.data, document.data)
        document.lines = {**base.lines, **document.lines}
    return document


def _base_path(path: Path, name: str) -> Path:
    """The file beside `path`, else what comes with kdbench under that name."""
    return path.parent / name if (path.parent / name).is_file() else shipped().get(name, path.parent / name)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = {**base, **over}
    for name in ("train", "teacher_train", "methods"):
        if isinstance(base.get(name), dict) and isinstance(over.get(name), dict):
            both = {**kept(base[name], over[name]), **over[name]}
            merged[name] = {k: v for k, v in both.items() if v is not None or k not in base[name]}  # null drops a row
    return merged


def _load_plugins(document: Document, plugins: tuple[Path, ...]) -> tuple[list[tuple[Place, str]], tuple[Path, ...]]:
    """The mistakes in `plugins:`, and the files that were loaded, those of the command line too."""
    problems: list[tuple[Place, str]] = []
    files = []
    listed = document.data.get("plugins")
    for number, name in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(name, str):
            path = document.lines["plugins", number][0].parent / name
            try:
                load_plugin(path)
                files.append(path.resolve())
            except UserError as error:
                problems.append((("plugins", number), str(error)))
    for path in plugins:
        load_plugin(path)
    return problems, (*files, *(path.resolve() for path in plugins))


def _line_order(line: str) -> tuple[str, int]:
    match = re.match(r"(.*?):(\d+):", line)
    return (match[1], int(match[2])) if match else (line, 0)

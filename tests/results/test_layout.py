"""The results folder: one module spells its paths, and no suite's name can be one of kdbench's own folders."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kdbench as package
from kdbench.errors import UserError
from kdbench.layout import BOARD, RESERVED, Layout, SuiteFolder, is_reserved
from kdbench.suite.load import load_suite

HOME = Path(package.__file__).parent
PATHS = ("Path", "glob", "rglob", "joinpath", "with_name")  # calls that take parts of paths


def names() -> set[str]:
    """Every folder or file below the results that `layout.py` has a name for, without those made of keys."""
    layout = Layout(Path("results"))
    folders = (layout, layout.suite("suite"), layout.teachers)
    properties = [(owner, name) for owner in folders for name, kind in vars(type(owner)).items() if is_property(kind)]
    values = [getattr(owner, name) for owner, name in properties]
    found = {value.name for value in values if isinstance(value, Path)} - {"", "results"}
    suite = layout.suite("suite")
    return found | {suite.leaderboard(form).name for form in BOARD} | {"teachers", "cells.csv", "cells.parquet"}


def is_property(kind: object) -> bool:
    return isinstance(kind, property)


def spelt(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names of `names` in a module's paths, with their lines; and those that can only be files wherever they stand."""
    known = names()
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    for node in ast.walk(tree):
        parts: list[ast.AST] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in PATHS:
            parts = list(node.args)
        elif isinstance(node, ast.Constant) and id(node) not in told and node.value in {n for n in known if "." in n}:
            parts = [node]
        for text in (inner for part in parts for inner in ast.walk(part) if isinstance(inner, ast.Constant)):
            if isinstance(text.value, str) and known & set(text.value.split("/")):
                yield text.lineno, text.value


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.py")), ids=lambda path: str(path.relative_to(HOME)))
def test_only_layout_spells_a_folder_of_the_results(path: Path) -> None:
    found = list(spelt(ast.parse(path.read_text(encoding="utf-8"))))
    if path == HOME / "layout.py":
        assert len(found) >= 8
    else:
        assert not found, f"{path}: ask kdbench/layout.py for {found}"


@pytest.mark.parametrize("code", [
    'x / "students" / f"{key}.safetensors"', 'results.glob("*/records")', 'x / f"teachers/{key}.json"',
    'Path("results", "mlartifacts")', 'open(folder + "mlflow.jsonl")', 'names = ("leaderboard.md",)',
])  # fmt: skip
def test_the_scan_finds_what_it_looks_for(code: str) -> None:
    assert list(spelt(ast.parse(code)))
    assert not list(spelt(ast.parse('"""Writes `x / "students"`."""\nframe.to_dict("records"); row["students"]')))


def test_every_folder_beside_the_suites_is_reserved() -> None:
    """A folder that is added to the layout must be reserved too, or a suite of that name would share it."""
    layout = Layout(Path("results"))
    values = [getattr(layout, name) for name, kind in vars(Layout).items() if is_property(kind)]
    beside = {getattr(value, "path", value).name for value in values}
    assert {name for name in beside if not name.startswith(".")} <= RESERVED
    assert is_reserved("Teachers")
    assert is_reserved("answers")
    assert not is_reserved("quickstart")


def test_a_suite_of_a_reserved_name_is_refused(suite_file: Callable[..., Path]) -> None:
    path = suite_file()
    text = path.read_text()
    for name in RESERVED:
        path.write_text(text.replace("name: tiny", f"name: {name}"))
        with pytest.raises(UserError, match=f"suite.yaml:1: name: '{name}' is taken by kdbench's own folder"):
            load_suite(path)


def test_what_lies_where() -> None:
    suite = SuiteFolder(Path("results/tiny"))
    assert (suite.name, suite.results) == ("tiny", Path("results"))
    assert suite.record("k") == Path("results/tiny/records/k.json")
    assert suite.student("k") == Path("results/tiny/students/k.safetensors")
    assert Layout(suite.results).teachers.record("k") == Path("results/teachers/k.json")

"""Named recipes: what `train: {recipe: deit, epochs: 100}` stands for. They are files beside the suites.

A recipe says everything but `precision`, which is the machine's: what it leaves out has its default. So a pair's recipe
takes nothing else from the suite's, nor a suite's from that which it extends. What stands beside `recipe` goes before
it. `recipe: FILE.yaml` is one of the user's own, seen from the suite.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdbench.errors import UserError, unknown
from kdbench.suite.check_training import tables
from kdbench.suite.shipped import recipes
from kdbench.suite.training import Train
from kdbench.suite.yaml_lines import Document, Place, read_yaml


def kept(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """What of a table stays where another one is merged into it."""
    return {name: value for name, value in base.items() if "recipe" not in over or name == "precision"}


def expand(document: Document) -> list[tuple[Place, str]]:
    """Put its settings in the place of each `recipe` of a suite; the mistakes in their names."""
    return [mistake for place, table in tables(document.data) for mistake in _expand(document, place, table)]


def _expand(document: Document, place: Place, table: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    if "recipe" not in table:
        return
    name, here = table.pop("recipe"), (*place, "recipe")
    path = _file(document, here, name)
    if path is None:
        known = recipes()
        yield here, unknown("recipe", name, known) if isinstance(name, str) else f"should be one of {', '.join(known)}"
        return
    try:
        read = read_yaml(path)
    except UserError as error:
        yield here, str(error)
        return
    given = dict(table)
    table.clear()
    table |= {**Train().model_dump(mode="json", exclude={"precision"}), **read.data, **given}
    for (entry, *rest), line in (item for item in read.lines.items() if item[0]):
        if entry not in given:
            document.lines[(*place, entry, *rest)] = line


def _file(document: Document, place: Place, name: Any) -> Path | None:
    if isinstance(name, str) and name.endswith(".yaml"):
        path = document.lines[place][0].parent / name
        return path if path.is_file() else None
    return recipes().get(name) if isinstance(name, str) else None

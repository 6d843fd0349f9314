"""A hook of mkdocs: what a page of a room says is read off the code, so that it can't be out of date.

`{{ files ROOM }}` becomes a table of the room's modules with the first sentence of each; `{{ knows ROOM }}` says what
the room may import, from the one list of floors (`FLOORS` in tests/test_house.py); `{{ floors }}` is that list.
"""

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CALL = re.compile(r"\{\{ (files|knows|floors) ?(\w*) \}\}")


def floors() -> tuple[tuple[str, ...], ...]:
    """From the ground up."""
    for node in ast.parse((ROOT / "tests" / "test_house.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLOORS":
            return ast.literal_eval(node.value)
    raise LookupError("tests/test_house.py has no FLOORS")


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def files(room: str) -> str:
    folder = ROOT / "kdbench" / room
    paths = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
    rows = [f"| `{path.relative_to(folder)}` | {summary(path)} |" for path in paths]
    return "\n".join(["| file | what it does |", "|:--|:--|", *rows])


def knows(room: str) -> str:
    below: list[str] = []
    for floor in floors():
        if room in floor:
            return f"It may import: {', '.join(f'`{name}`' for name in below)}; and itself. Nothing above."
        below += floor
    raise LookupError(f"no room {room!r} in FLOORS")


def all_floors(_: str) -> str:
    """From the top down."""
    rows = [
        f"| {number} | {', '.join(f'`{name}`' for name in floor)} |"
        for number, floor in reversed(list(enumerate(floors(), 1)))
    ]
    return "\n".join(["| floor | rooms |", "|:-:|:--|", *rows])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page."""
    makers = {"files": files, "knows": knows, "floors": all_floors}
    return CALL.sub(lambda call: makers[call[1]](call[2]), markdown)

"""Which suite file a folder of results belongs to: two of one name would write over each other's tables."""

import os
from contextlib import suppress
from pathlib import Path

from kdbench.errors import UserError
from kdbench.files import write_atomic
from kdbench.layout import SuiteFolder
from kdbench.suite.yaml_lines import read_yaml


def claim(folder: SuiteFolder, suite: Path) -> str | None:
    """Note that the file `suite` writes into `folder`; a line if another file of that name did so before."""
    other = None
    with suppress(OSError, ValueError):
        other = folder.path / folder.origin.read_text(encoding="utf-8")
    with suppress(OSError, ValueError):  # a folder that can't be written says so when it matters
        write_atomic(folder.origin, os.path.relpath(suite, folder.path).encode())
    if other is None or not other.is_file() or other.samefile(suite) or _name(other) != folder.name:
        return None
    return (
        f"{os.path.relpath(other)} is called {folder.name!r} too and has its results in {folder.path}: tables there, "
        "and MLflow's, show the suite that was the last to run; give one of them another name"
    )


def _name(suite: Path) -> object:
    try:
        return read_yaml(suite).data.get("name")
    except UserError:
        return None

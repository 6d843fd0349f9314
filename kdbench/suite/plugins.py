"""The three doors through which methods, data sets and nets come in: entry points, `plugins:`, `--plugin`."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import module_from_spec
from pathlib import Path

from kdbench.errors import Interrupted, UserError, in_words
from kdbench.method.register import METHODS
from kdbench.registry import INSTALLED, RELEASED


def load_methods() -> None:
    """Import every installed method (entry-point group `kdbench.methods`) and our data sets."""
    import kdbench.text.datasets  # noqa: F401  (registers them)
    import kdbench.vision.datasets  # noqa: F401

    for entry in entry_points(group="kdbench.methods"):
        entry.load()
    if not METHODS.entries:
        raise UserError("no method is registered: kdbench is not installed (`pip install .` in its folder)")


def load_plugin(path: Path) -> None:
    """Import one file of the user's own. Raises UserError when it is missing or does not import."""
    if not path.is_file():
        raise UserError(f"plugin {path}: no such file")
    name = "kdbench_plugin_" + hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
    text = path.read_bytes()
    known = sys.modules.get(name)
    if known is not None and known.__spec__ is not None and known.__spec__.loader_state == text:
        return  # once it is edited it is imported again
    loader = SourceFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path), loader_state=text))
    module.__file__ = str(path)
    sys.modules[name] = module
    try:
        with files_beside(path.resolve().parent):
            exec(loader.source_to_code(text, str(path)), vars(module))  # what was hashed, and not bytecode of before
        _files[path.resolve()] = frozenset(Path(sys.modules[name].__file__ or "").resolve() for name in BESIDE)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Interrupted | UserError):
            raise
        raise UserError(f"plugin {path}: {in_words(error)}") from error


BESIDE: set[str] = set()  # names of modules that the last plugin imported from its folder
_files: dict[Path, frozenset[Path]] = {}  # of each plugin: those


def files_of_plugin(path: Path) -> dict[str, Path]:
    """What a loaded plugin is made of: itself first, then what it imported from its folder, by the path in there."""
    path = path.resolve()
    files = [path, *sorted(_files.get(path, frozenset()) - {path})]
    return {file.relative_to(path.parent).as_posix(): file for file in files}


@contextmanager
def files_beside(folder: Path) -> Iterator[None]:
    """What lies in `folder` can be imported, as by a file that Python runs; two plugins' `helper` are two modules."""
    while BESIDE:
        sys.modules.pop(BESIDE.pop(), None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        BESIDE.update(name for name in set(sys.modules) - before if _lies_in(folder, sys.modules[name]))


def _lies_in(folder: Path, module: object) -> bool:
    """Is it a file of the user's own in `folder`? An environment may lie in there too."""
    path = Path(getattr(module, "__file__", None) or "/").resolve()
    return path.is_relative_to(folder) and not any(path.is_relative_to(place) for place in (*RELEASED, *INSTALLED))

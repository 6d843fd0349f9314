"""The three doors through which methods, data sets and nets come in: entry points, `plugins:`, `--plugin`."""

import hashlib
import importlib.util
import sys
from importlib.metadata import entry_points
from pathlib import Path

from kdbench.errors import UserError
from kdbench.method.register import METHODS


def load_methods() -> None:
    """Import every installed method (entry-point group `kdbench.methods`) and our data sets."""
    import kdbench.vision.datasets  # noqa: F401  (registers them)

    for entry in entry_points(group="kdbench.methods"):
        entry.load()
    if not METHODS.entries:
        import methods

        raise UserError(
            f"no method is registered: 'methods' was found at {methods.__file__ or list(methods.__path__)}; "
            "is kdbench installed, and does something else named 'methods' stand before it?"
        )


def load_plugin(path: Path) -> None:
    """Import one file of the user's own. Raises UserError when it is missing or does not import."""
    if not path.is_file():
        raise UserError(f"plugin {path}: no such file")
    name = "kdbench_plugin_" + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"plugin {path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt | UserError):
            raise
        raise UserError(f"plugin {path}: {type(error).__name__}: {error}") from error

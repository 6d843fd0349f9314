"""The optional packages of this domain: imported when they are needed, named in one line where they are not there."""

from importlib import import_module
from typing import Any

from kdbench.errors import UserError

EXTRA = {"transformers": "text", "tokenizers": "text", "datasets": "hub"}


def optional(name: str) -> Any:
    """The package `name`. Raises UserError with what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"texts need {name}: pip install 'kdbench[{EXTRA[name]}]'") from error


def quiet_transformers() -> Any:
    """`transformers` without its reports and bars: what matters of them is told by kdbench."""
    package = optional("transformers")
    package.logging.set_verbosity_error()
    package.logging.disable_progress_bar()
    return package

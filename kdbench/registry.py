"""One registry class, used for methods and for data sets: a dict with good errors.

A method enters through `@register_method(...)` when its file is imported. Three doors import files: the entry-point
group `kdbench.methods` (ours included), `plugins:` in a suite, `--plugin FILE`.
"""

import ast
import hashlib
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from kdbench.errors import UserError, unknown
from kdbench.source import code_alone

T = TypeVar("T")
P = TypeVar("P")  # where a mistake is


class Registry(Generic[T]):
    """Names to things, each with the settings model read off its signature."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.entries: dict[str, T] = {}
        self._settings: dict[str, type[BaseModel]] = {}
        self._code: dict[str, str] = {}

    def add(self, name: str, entry: T, settings_of: Callable[..., Any]) -> None:
        """Raises UserError naming both files when `name` is taken."""
        if name in self.entries and _origin(self.entries[name]) != _origin(entry):
            both = f"{_origin(self.entries[name])} and {_origin(entry)}"
            raise UserError(f"{self.what} {name!r} is registered twice: in {both}")
        self.entries[name] = entry
        self._code[name] = foreign_code(entry)
        self._settings[name] = _settings_model(name, settings_of)

    def __getitem__(self, name: str) -> T:
        if name not in self.entries:
            raise UserError(unknown(self.what, name, self.entries))
        return self.entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.entries))

    def settings(self, name: str, given: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Every setting of `name`, defaults filled in, and the mistakes in `given` as (setting, message)."""
        model = self._settings[name]
        try:
            # Through JSON, so that strict types still take a YAML list for a tuple.
            checked = model.model_validate_json(json.dumps(given), strict=True)
        except ValidationError as error:
            return {}, alternatives(explain(problem, model.model_fields) for problem in error.errors())
        return {setting: getattr(checked, setting) for setting in model.model_fields}, []

    def form(self, name: str) -> type[BaseModel]:
        """What the settings of `name` may be; another object once it is registered anew."""
        return self._settings[name]

    def schema(self, name: str) -> dict[str, Any]:
        """JSON schema of the settings of `name`."""
        return self._settings[name].model_json_schema()

    def code(self, name: str) -> str:
        """Of what is not kdbench's own: a hash of the code as it was when it was registered. Else ""."""
        return self._code.get(name, "")

    def file_hash(self, name: str) -> str:
        """SHA-256 (first 12 hex digits) of the code in the file that defines `name`: a record says what made it."""
        source = Path(_origin(self[name]))
        return hash_of_code(source.read_bytes()) if source.is_file() else "unknown"


def hash_of_file(content: bytes) -> str:
    """20 hex digits, as a key has them."""
    return hashlib.sha256(content).hexdigest()[:20]


def hash_of_code(source: bytes) -> str:
    """12 hex digits, without comments and docstrings: a typo that is mended there makes no other code."""
    with suppress(SyntaxError, UnicodeDecodeError):  # no Python source: all of it counts
        source = code_alone(source.decode()).encode()
    return hashlib.sha256(source).hexdigest()[:12]


def explain(problem: Any, known: Iterable[str]) -> tuple[str, str]:
    """One pydantic problem as (setting, message in plain words)."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    return name, message_of(problem, "setting", known)


def alternatives(found: Iterable[tuple[P, str]]) -> list[tuple[P, str]]:
    """What pydantic says once for each type that a value may have, said once: "should be a, or b, not c"."""
    joined: list[tuple[P, str]] = []
    for place, text in found:
        if joined and joined[-1][0] == place and text.startswith("should be "):
            before, _, given = joined[-1][1].rpartition(", not ")
            wanted, _, same = text.removeprefix("should be ").rpartition(", not ")
            if before and given == same:
                joined[-1] = (place, f"{before}, or {wanted}, not {given}")
                continue
        joined.append((place, text))
    return joined


WORDS = {  # pydantic's -> YAML's
    "a valid array": "a list",
    "a valid tuple": "a list",
    "a valid list": "a list",
    "an object": "a table of entries",
    "a valid dictionary": "a table of entries",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
}


def message_of(problem: Any, what: str, known: Iterable[str]) -> str:
    """pydantic's message in plain words, with what was given. `known`: the names that there are."""
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    for pydantics, yamls in WORDS.items():
        message = message.replace(pydantics, yamls)
    if problem["type"] == "extra_forbidden":
        return unknown(what, problem["loc"][-1], known)
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "string_pattern_mismatch":
        return f"must be a plain file name (letters, digits, . _ -), not {problem['input']!r}"
    shown = repr(problem["input"])
    return message if len(shown) > 60 or problem["type"] == "value_error" else f"{message}, not {shown}"


def _origin(entry: Any) -> str:
    try:
        return inspect.getsourcefile(entry) or "?"
    except TypeError:  # built in, or an object that can be called
        return "?"


HERE = Path(__file__).resolve().parent
RELEASED = (HERE, HERE.parent / "methods") if (HERE / "methods.py").is_file() else (HERE,)  # a checkout, a wheel
INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def foreign_code(entry: Any) -> str:
    """A hash of the file that defines `entry` and of the files beside or below it which that imports.

    20 hex digits; "" for what comes with kdbench: there the version says which code it was.
    """
    origin = Path(_origin(entry)).resolve()
    if any(origin.is_relative_to(place) for place in RELEASED):
        return ""
    files = {origin} if origin.is_file() else set()
    _add_imported(sys.modules.get(entry.__module__), origin.parent, files)
    texts = [path.read_bytes() for path in sorted(files)] or [_source(entry)]
    return hash_of_file(b"\0".join(texts))


def _add_imported(module: Any, folder: Path, files: set[Path]) -> None:
    """Add to `files` those below `folder` from which `module` has something, and what these have from others."""
    for name in _modules_in(module) if module else ():
        other = sys.modules.get(name)
        path = Path(getattr(other, "__file__", None) or "/").resolve()
        others = (place for place in (*RELEASED, *INSTALLED) if place.is_relative_to(folder))
        if path in files or not path.is_relative_to(folder) or any(path.is_relative_to(place) for place in others):
            continue
        if path.suffix == ".py" and path.is_file():
            files.add(path)
            _add_imported(other, folder, files)


def _modules_in(module: ModuleType) -> set[str]:
    """Names of the modules that it has something from: what its things tell, and what its import lines do.

    A number that came by `from helper import SCALE` does not tell where it is from.
    """
    things = [
        v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in vars(module).values()
    ]
    found = {name for name in things if isinstance(name, str)}
    with suppress(OSError, SyntaxError, ValueError, ImportError, RecursionError):
        for node in ast.walk(ast.parse(Path(module.__file__ or "").read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = resolve_name("." * node.level + (node.module or ""), module.__package__)
                found |= {start, *(f"{start}.{alias.name}" for alias in node.names)}
    return found


def _source(entry: Any) -> bytes:
    """Of what stands in no file: a notebook's cell."""
    try:
        return inspect.getsource(entry).encode()
    except (OSError, TypeError):
        return b""


def _settings_model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the keyword arguments of `function` (all but `self`, the data folder and the task)."""
    settings: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        inherited = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)  # nn.Module's, without settings
        if parameter.name in ("self", "data_dir", "task") or inherited:
            continue
        if parameter.annotation is parameter.empty:
            raise UserError(f"{name}: setting {parameter.name!r} needs a type hint ({_origin(function)})")
        default = ... if parameter.default is parameter.empty else parameter.default
        settings[parameter.name] = (parameter.annotation, default)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(name, __config__=config, **settings)

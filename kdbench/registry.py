"""One registry class, used for methods and for data sets: a dict with good errors.

A method enters through `@register_method(...)` when its file is imported. Three doors import files: the entry-point
group `kdbench.methods` (ours included), `plugins:` in a suite, `--plugin FILE`.
"""

import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from kdbench.errors import UserError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things, each with the settings model read off its signature."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.entries: dict[str, T] = {}
        self._settings: dict[str, type[BaseModel]] = {}

    def add(self, name: str, entry: T, settings_of: Callable[..., Any]) -> None:
        """Raises UserError naming both files when `name` is taken."""
        if name in self.entries and _origin(self.entries[name]) != _origin(entry):
            both = f"{_origin(self.entries[name])} and {_origin(entry)}"
            raise UserError(f"{self.what} {name!r} is registered twice: in {both}")
        self.entries[name] = entry
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
            return {}, [explain(problem, model.model_fields) for problem in error.errors()]
        return {setting: getattr(checked, setting) for setting in model.model_fields}, []

    def schema(self, name: str) -> dict[str, Any]:
        """JSON schema of the settings of `name`."""
        return self._settings[name].model_json_schema()

    def file_hash(self, name: str) -> str:
        """SHA-256 (first 12 hex digits) of the file that defines `name`: a record says which code made it."""
        source = Path(_origin(self[name]))
        return hashlib.sha256(source.read_bytes()).hexdigest()[:12] if source.is_file() else "unknown"


def explain(problem: Any, known: Iterable[str]) -> tuple[str, str]:
    """One pydantic problem as (setting, message in plain words)."""
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "extra_forbidden":
        return name, unknown("setting", name, known)
    return name, plain(problem)


def plain(problem: Any) -> str:
    """pydantic's message, with what was given."""
    message = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if problem["type"] == "missing":
        return "is missing"
    shown = repr(problem["input"])
    return message if len(shown) > 60 or problem["type"] == "value_error" else f"{message}, not {shown}"


def _origin(entry: Any) -> str:
    return inspect.getsourcefile(entry) or "?"


def _settings_model(name: str, function: Callable[..., Any]) -> type[BaseModel]:
    """A pydantic model of the keyword arguments of `function` (all but `self` and the data folder)."""
    settings: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        inherited = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)  # nn.Module's, without settings
        if parameter.name in ("self", "data_dir") or inherited:
            continue
        if parameter.annotation is parameter.empty:
            raise UserError(f"{name}: setting {parameter.name!r} needs a type hint ({_origin(function)})")
        default = ... if parameter.default is parameter.empty else parameter.default
        settings[parameter.name] = (parameter.annotation, default)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    return create_model(name, __config__=config, **settings)


METHODS: Registry[Any] = Registry("method")
DATASETS: Registry[Any] = Registry("data set")


def register_method(
    name: str,
    *,
    needs: str | tuple[str, ...] = "logits",
    student_needs: str | tuple[str, ...] | None = None,
    paper: str = "",
    year: int | None = None,
    family: str = "",
) -> Callable[[type[T]], type[T]]:
    """Class decorator that puts a `Method` under `name`.

    `needs` says what the networks must deliver, one or several of `kdbench.method.NEEDS`; an empty tuple says that the
    method needs no teacher. `student_needs`: what the student must deliver, where it differs from the teacher.
    """
    from kdbench.method import NEEDS

    wanted = (needs,) if isinstance(needs, str) else tuple(needs)
    students = (student_needs,) if isinstance(student_needs, str) else student_needs
    for need in {*wanted, *(students or ())}:
        if need not in NEEDS:
            raise UserError(f"method {name!r}: {unknown('need', need, NEEDS)}")

    def register(cls: type[T]) -> type[T]:
        about = {"name": name, "needs": wanted, "paper": paper, "year": year, "family": family}
        about["student_needs"] = wanted if students is None else tuple(students)
        for key, value in about.items():
            setattr(cls, key, value)
        METHODS.add(name, cls, cls.__init__)
        return cls

    return register


def register_dataset(
    name: str, *, info: Callable[..., "DataInfo"] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that puts a function `(data_dir: Path, **settings) -> Splits` under `name`.

    `info` has the same arguments and tells the sizes without reading the pictures, so that `plan` works before the
    data are there; without it the data are read.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        function.info = info  # type: ignore[attr-defined]
        DATASETS.add(name, function, function)
        return function

    return register


@dataclass(frozen=True)
class DataInfo:
    """What shapes depend on."""

    num_classes: int
    input_size: tuple[int, int, int]
    num_train: int
    num_test: int


def load_methods() -> None:
    """Import every installed method (entry-point group `kdbench.methods`) and our data sets."""
    import kdbench.data  # noqa: F401  (registers the data sets)

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

"""YAML to plain data, remembering the line of every entry. A tag that would build an object is refused."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdbench.errors import UserError, first_line

Place = tuple[str | int, ...]  # ("pairs", 1, "student")
MAX_NODES = 200_000  # aliases can make a small file expand without end


class _Loader(yaml.SafeLoader):
    """SafeLoader, but 5e-4 is a number, only true/false are truth values, and dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] in ("int", "null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_DIGITS = r"[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE])"
_FLOAT = rf"^(?:[-+]?(?:{_DIGITS})(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))


@dataclass
class Document:
    """The data of one suite, and where each entry stands."""

    path: Path
    data: dict[str, Any]
    lines: dict[Place, tuple[Path, int]] = field(default_factory=dict)

    def where(self, place: Place) -> str:
        """`suites/x.yaml:12: pairs[1].student`, with the line of the nearest entry that exists."""
        path, line = self.path, 1
        for length in range(len(place), -1, -1):
            if place[:length] in self.lines:
                path, line = self.lines[place[:length]]
                break
        name = ""
        for part in place:
            text = str(part) if str(part).isprintable() else repr(part)
            name += f"[{part}]" if isinstance(part, int) else f".{text}" if name else text
        return f"{path}:{line}: {name}" if name else f"{path}:{line}"


def read_yaml(path: Path) -> Document:
    """Raises UserError (one line per mistake) when the file can't be read, is no YAML, or is no table of entries."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not a text file (byte {error.start} is not UTF-8)") from error
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document(path, {})
        if not isinstance(node, yaml.MappingNode):
            what = "empty" if node is None else "not a table of `name: value` entries"
            raise UserError(f"{path}:1: the suite is {what}")
        reader = _Reader(document, loader)
        document.data = reader.read(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path}:{line}: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}:1: {first_line(error)}") from error
    except RecursionError:
        raise UserError(f"{path}:1: nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    if reader.problems:
        raise UserError("\n".join(reader.problems))
    return document


class _Reader:
    def __init__(self, document: Document, loader: Any) -> None:
        self.document, self.loader = document, loader
        self.problems: list[str] = []
        self.nodes = 0

    def read(self, node: yaml.Node, place: Place) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise UserError(f"{self.document.path}:1: more than {MAX_NODES} entries")
        self.document.lines.setdefault(place, (self.document.path, node.start_mark.line + 1))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*place, number)) for number, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            self._problem(node, place, getattr(error, "problem", None) or str(error))
            return None

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.loader.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
            if key_node.tag.endswith(":merge"):
                self._problem(key_node, place, "merge keys (<<) are not read; use `extends:`")
                continue
            if not isinstance(key, str):
                self._problem(key_node, place, f"the name {key!r} must be text; put it in quotes")
                continue
            if key in data:
                self._problem(key_node, (*place, key), "stands here twice")
            self.document.lines[*place, key] = (self.document.path, key_node.start_mark.line + 1)
            data[key] = self.read(value_node, (*place, key))
        return data

    def _problem(self, node: yaml.Node, place: Place, text: str) -> None:
        self.document.lines[place] = (self.document.path, node.start_mark.line + 1)
        self.problems.append(f"{self.document.where(place)}: {text}")

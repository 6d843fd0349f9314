"""Python source without what it says of itself: whether code changed must not hang on a comment."""

import ast
import io
from collections.abc import Iterator
from tokenize import COMMENT, generate_tokens

WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_alone(text: str) -> str:
    """The source without comments, docstrings and empty lines. Raises SyntaxError for what is no Python."""
    lines, docstrings = text.splitlines(), [*_docstrings(text)]
    for row, column in _comments(text):
        lines[row] = lines[row][:column]
    for first, last in docstrings:
        lines[first:last] = [""] * (last - first)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _comments(text: str) -> Iterator[tuple[int, int]]:
    """Row and column, from 0, of every comment."""
    for part in generate_tokens(io.StringIO(text).readline):
        if part.type == COMMENT:
            yield part.start[0] - 1, part.start[1]


def _docstrings(text: str) -> Iterator[tuple[int, int]]:
    """The rows (from 0, the last one not counted) of every docstring that has its lines for itself."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            says = node.body[0]
            alone = says.lineno > getattr(node, "lineno", 0) and says.end_lineno is not None
            if alone and (len(node.body) == 1 or node.body[1].lineno > (says.end_lineno or 0)):
                yield says.lineno - 1, says.end_lineno or says.lineno

"""Errors that a person can act on: shown as they stand, without a traceback, exit code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user gave is wrong. The text is complete: one line per mistake."""


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown model 'resnt18'; did you mean 'resnet18'?`, or the list of what there is when it is short."""
    known = sorted(known)
    text = f"unknown {what} {name!r}"
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f"{text}; did you mean {near[0]!r}?"
    return f"{text}; there are: {', '.join(known)}" if 0 < len(known) <= 40 else text


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"

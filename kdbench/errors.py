"""Errors that a person can act on: shown as they stand, without a traceback, exit code 2; others' errors in words."""

from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType

LONGEST = 2000  # characters of a reason: some errors hold whole arrays


class UserError(Exception):
    """Something the user gave is wrong. The text is complete: one line per mistake."""


class Interrupted(KeyboardInterrupt):
    """The user's own Ctrl-C. A plain KeyboardInterrupt may as well be raised by a plugin's code."""


class Escaped(Exception):
    """A plugin raised what would have ended the program: SystemExit, KeyboardInterrupt, GeneratorExit."""


class Tame:
    """`with Tame():` around a plugin's code: whatever it raises is an Exception; the user's Ctrl-C passes."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and not isinstance(error, Exception | Interrupted):
            raise Escaped(f"raised {in_words(error)}") from error


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """`unknown model 'resnt18'; did you mean 'resnet18'?`, or the list of what there is when it is short."""
    known = sorted(known)
    text = f"unknown {what} {name!r}"
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if near:
        return f"{text}; did you mean {near[0]!r}?"
    return f"{text}; there are: {', '.join(known)}" if 0 < len(known) <= 40 else text


def in_words(error: BaseException) -> str:
    """The kind of an error and what it says, whatever that is: it may be long, not text, or fail to be said.

    What is written for people stands for itself.
    """
    try:
        text = str(error)
    except BaseException as other:
        if isinstance(other, Interrupted):
            raise
        text = "(its text can't be made)"
    text = text.encode("utf-8", "backslashreplace").decode()
    kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return kind + text[:LONGEST] + (" ..." if len(text) > LONGEST else "")


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    kind, _, text = in_words(error).partition(": ")
    text = text.strip()
    return f"{kind}: {text.splitlines()[0] if text else ''}"

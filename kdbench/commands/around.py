"""What commands run in: a display, a local copy of results in a store, an output that may be gone."""

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TextIO, cast

from kdbench.display import Nowhere, displays
from kdbench.results.store import copied, is_url

SHORT = ("plan", "leaderboard")  # they make millions of small objects, and end


def around(command: str) -> AbstractContextManager[None]:
    """What a command runs in: what a run shows decides nothing."""
    if command in ("run", "verify"):
        return displays()
    return uncollected() if command in SHORT else nullcontext()


@contextmanager
def at_hand(given: argparse.Namespace) -> Iterator[None]:
    """Where the results lie in a store: with a local copy of them."""
    if is_url(url := getattr(given, "results", None)):
        with copied(url, given.command, partial(print, file=sys.stderr)) as given.results:
            yield
    else:
        yield


def reader_is_gone() -> bool:
    """Of our output; then nobody sees what comes after, either."""
    try:
        print(flush=True)
    except BrokenPipeError:
        sys.stdout = cast(TextIO, Nowhere())
        return True
    return False


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cyclic garbage: it would look through all records again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

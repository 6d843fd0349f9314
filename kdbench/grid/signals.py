"""Signals: the first one ends a run after its step, with its state saved. And whose KeyboardInterrupt it is."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kdbench.errors import Interrupted

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[list[int]]:
    """A list that holds the signal once one came: finish the step, save, leave. A second one leaves at once.

    Ctrl-C, SIGTERM, and SIGHUP (the terminal was closed) unless it is ignored (`nohup`).
    """
    caught: list[int] = []

    def handle(number: int, _: Any) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        say("stopping after this step; state is saved (once more: leave at once)")

    numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    with _handled(numbers, handle):
        yield caught


@contextmanager
def own_interrupts() -> Iterator[None]:
    """Ctrl-C raises Interrupted, so that it can be told from a KeyboardInterrupt that a plugin raises."""

    def handle(*_: Any) -> None:
        raise Interrupted

    numbers = [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
    with _handled(numbers, handle):
        yield


@contextmanager
def _handled(numbers: Sequence[int], handle: Callable[..., None]) -> Iterator[None]:
    """Nothing where this is not the main thread: whoever runs us handles signals there."""
    try:
        before = {number: signal.signal(number, handle) for number in numbers}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""Threads that a member's code starts end with it: what they draw from torch's generator must not be another's.

Waited for are those of `threading.Thread`, for some seconds and once. One that goes on for longer (a pool that waits
for work) is left alone; nothing guards the others against what it does then.
"""

import threading
import time
from collections.abc import Callable

PATIENCE = 5.0  # seconds, for all threads that were started


class Started:
    """Notes the threads that this one starts, from here to `wait`."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self._start: Callable[[threading.Thread], None] = threading.Thread.start
        ours, start, noted = threading.get_ident(), self._start, self.threads.append

        def started(thread: threading.Thread) -> None:
            start(thread)
            if threading.get_ident() == ours:
                noted(thread)

        threading.Thread.start = started  # type: ignore[method-assign, assignment]

    def wait(self) -> None:
        threading.Thread.start = self._start  # type: ignore[method-assign, assignment]
        until = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(0.0, until - time.monotonic()))

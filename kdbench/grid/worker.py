"""A process that trains the cohorts it is given: `python -m kdbench.grid.worker SOCKET THREADS`.

It tells events to the process that started it, and has no bar, no MLflow and no records of its own. Signals are for
that process, which says when to stop; if it is gone, this one saves its state and ends.
"""

import queue
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from kdbench.errors import in_words
from kdbench.grid.cohort import Worker
from kdbench.grid.executors import Job
from kdbench.grid.signals import STOPPING
from kdbench.results.schema import Record
from kdbench.train.loop import Stopped

EVERY = 0.1  # seconds between two tellings of the steps made


class Sends(Protocol):
    def send(self, obj: Any) -> None: ...


class Telling:
    """The `Events` of this process: what is told goes to the one that started it."""

    def __init__(self, connection: "Sends") -> None:
        self.connection, self.last = connection, 0.0
        self.steps: Counter[tuple[int, str]] = Counter()  # (batch size, piece) -> member-steps not told yet

    def now(self, what: str) -> None:
        self.tell("now", what)

    def say(self, line: str) -> None:
        self.tell("say", line)

    def advance(self, members: int, batch_size: int, piece: str = "") -> None:
        self.steps[batch_size, piece] += members
        if time.monotonic() - self.last > EVERY:
            self.tell_steps()

    def passed(self, steps: int, piece: str) -> None:
        self.tell("passed", steps, piece)

    def epoch(self, head: Record, values: dict[str, float], number: int) -> None:
        self.tell("epoch", head, values, number)

    def finished(self, record: Record, student: bytes | None) -> None:
        self.tell("finished", record, student)

    def tell(self, name: str, *given: Any) -> None:
        self.tell_steps()
        self.connection.send((name, *given))

    def tell_steps(self) -> None:
        for (batch_size, piece), members in self.steps.items():
            self.connection.send(("advance", members, batch_size, piece))
        self.steps.clear()
        self.last = time.monotonic()


def work(connection: Connection) -> None:
    """Jobs, one after another, until there is to be an end."""
    jobs: queue.Queue[Job | None] = queue.Queue()
    stop = threading.Event()
    threading.Thread(target=hear, args=(connection, jobs, stop), daemon=True).start()
    events, worker = Telling(connection), None
    while (job := jobs.get()) is not None:
        try:
            job.open()
            if worker is None or worker.place != job.place:
                worker = Worker(job.place, events, stop.is_set)
            worker.run(job.cells)
            events.tell("rests")
        except Stopped:
            events.tell("rests")
            return
        except Exception as error:
            events.tell("raises", error if is_plain(error) else RuntimeError(in_words(error)))


def hear(connection: Connection, jobs: "queue.Queue[Job | None]", stop: threading.Event) -> None:
    """Take jobs in; None, or the other end's end, is the sign to stop."""
    job: Job | None
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            job = None
        if job is None:
            stop.set()
        jobs.put(job)
        if job is None:
            return


def is_plain(error: Exception) -> bool:
    """Is it one of ours, or Python's own, that the other process can take apart?"""
    home = type(error).__module__
    return home.startswith(("kdbench.", "builtins")) and not home.startswith("kdbench.methods")


def main() -> None:
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
    torch.set_num_threads(int(sys.argv[2]))
    work(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()

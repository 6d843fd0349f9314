"""A process that trains with others what the first of them says: `python -m kdbench.grid.follower`.

It has no bar, no MLflow and writes nothing. Signals are for the first process; where torchrun sends one to all, they
agree on it.
"""

import os
import pickle
import signal
import sys
import threading
import warnings
from contextlib import suppress
from dataclasses import replace

import torch
import torch.distributed as dist

from kdbench.grid.cohort import Worker
from kdbench.grid.events import Stop
from kdbench.grid.executors import Job
from kdbench.grid.signals import STOPPING
from kdbench.results.schema import Record
from kdbench.train.devices import LOST, Devices
from kdbench.train.loop import Stopped


class Silent:
    """The first process tells."""

    def now(self, what: str) -> None:
        pass

    def say(self, line: str) -> None:
        pass

    def advance(self, members: int, batch_size: int, piece: str = "") -> None:
        pass

    def passed(self, steps: int, piece: str) -> None:
        pass

    def epoch(self, head: Record, values: dict[str, float], number: int) -> None:
        pass

    def finished(self, record: Record, student: bytes | None) -> None:
        pass


def follow(group: Devices, stop: Stop = lambda: False) -> None:
    """Train what is shared, until there is no more. Raises Stopped."""
    worker = None
    while (content := group.share(lambda: None)) is not None:
        job: Job = pickle.loads(content)  # from the first process, over the group's own connection
        job.open()
        place = replace(job.place, device=str(group.device))
        worker = worker or Worker(place, Silent(), stop, group)
        worker.run(job.cells)


def end_with_the_first() -> None:
    """It holds the other end of our standard input as long as it lives."""
    sys.stdin.buffer.read()
    os._exit(LOST)


def main() -> None:
    rank, size, store, device, threads = sys.argv[1:]
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
    torch.set_num_threads(int(threads))
    threading.Thread(target=end_with_the_first, daemon=True).start()
    group = Devices(int(rank), int(size), dist.FileStore(store, int(size)), torch.device(device))
    group.say = lambda line: None
    with suppress(Stopped):
        follow(group)


if __name__ == "__main__":
    main()

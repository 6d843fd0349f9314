"""Several processes that train one cohort after another together, each with a part of every batch (`train/devices.py`).

The first is the run itself, with bar, records and MLflow; the others follow: `python -m kdbench.grid.follower`, started
here (`--devices N`), or the same command started by `torchrun`, which sets RANK, WORLD_SIZE and LOCAL_RANK.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.distributed as dist

from kdbench.errors import UserError
from kdbench.grid.cohort import Place, Worker
from kdbench.grid.events import Events, Stop
from kdbench.grid.executors import Here, Job, Queue
from kdbench.grid.processes import ended
from kdbench.train.devices import LOST, WAIT, Devices, leave

BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Together(Here):
    """This process and those that follow it, `size` in all. Raises UserError where there are not so many devices."""

    group: Devices

    def __init__(self, size: int, device: torch.device, threads: int) -> None:
        if device.type == "cuda" and device.index is not None:
            raise UserError(f"--devices {size} takes the first {size} GPUs; leave --device {device} out")
        if device.type == "cuda" and size > torch.cuda.device_count() and not by_torchrun():
            raise UserError(f"--devices {size}: this machine has {torch.cuda.device_count()} GPUs")
        self.size, self.device, self.threads = size, device, threads
        self.say: Callable[[str], None] = partial(print, file=sys.stderr, flush=True)
        self.over = False  # is there no more to do?
        self.about = f"by {size} processes together, each with a part of every batch"

    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
        for parts in {cell.train.norm_parts for queue in queues for job in queue.jobs for cell in job.cells} - {None}:
            if parts and parts % self.size:
                raise UserError(f"norm_parts: {parts} parts of a batch can't lie on {self.size} devices alike")
        before, self.say = torch.get_num_threads(), events.say
        torch.set_num_threads(self.threads or before)
        try:
            with joined(self.device) if by_torchrun() else started(self) as self.group:
                self.group.say = events.say
                super().run(queues, events, stop)
        finally:
            torch.set_num_threads(before)

    def place_of(self, job: Job) -> Place:
        return replace(job.place, device=str(self.group.device))

    def train(self, worker: Worker, job: Job) -> None:
        """All train it; whatever is raised meanwhile, the others do not wait for another job."""
        self.group.share(lambda: pickle.dumps(job))
        self.group.busy = True
        super().train(worker, job)
        self.group.busy = False


@contextmanager
def started(all_of: Together) -> Iterator[Devices]:
    """This process as the first of several on this machine. Whoever dies takes all with it.

    They find each other by a file, and talk over the loopback interface alone.
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo" if sys.platform == "linux" else "lo0")
    size = all_of.size
    with tempfile.TemporaryDirectory(prefix="kdbench-") as folder:
        store = str(Path(folder) / "store")
        followers = [follower(rank, store, all_of) for rank in range(1, size)]
        for rank, process in enumerate(followers, 1):  # from the start on: who never comes would be waited for
            threading.Thread(target=watch, args=(all_of, rank, process), daemon=True).start()
        group = Devices(0, size, dist.FileStore(store, size), place_of(all_of.device, 0))
        try:
            yield group
            group.share(lambda: None)  # there is no other job
        finally:
            all_of.over = True
            for process in followers:
                assert process.stdin is not None
                with suppress(OSError):
                    process.stdin.close()  # the sign to end, for one that waits
                process.wait()
            group.close()


def follower(rank: int, store: str, all_of: Together) -> "subprocess.Popen[bytes]":
    """A process group of its own: Ctrl-C in a terminal is for the first process, which has all stop."""
    words = [str(word) for word in (rank, all_of.size, store, place_of(all_of.device, rank), all_of.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(all_of.threads)}
    command = [sys.executable, "-m", "kdbench.grid.follower", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, process_group=0)


def watch(all_of: Together, rank: int, process: "subprocess.Popen[bytes]") -> None:
    """Collectives of GPUs may wait for a dead process for ever: so its end is looked for."""
    process.wait()
    if not all_of.over and process.returncode not in (0, LOST):
        leave(all_of.say, f"process {rank} of the {all_of.size} that train together {ended(process)}", 1)


def place_of(device: torch.device, rank: int) -> torch.device:
    """Where process `rank` of a machine trains."""
    return torch.device("cuda", rank) if device.type == "cuda" else device


def by_torchrun() -> bool:
    """Was this process started by torchrun, or by another launcher that says so alike?"""
    return all(name in os.environ for name in BY_TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def has_joined() -> bool:
    """Did the command find the other processes that torchrun started?"""
    return _joined.cache_info().currsize > 0


@contextmanager
def joined(device: torch.device) -> Iterator[Devices]:
    """This process as one of those that torchrun started."""
    yield _joined(device)


@cache
def _joined(device: torch.device) -> Devices:
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=WAIT))
    return Devices(rank, size, store, place_of(device, local))

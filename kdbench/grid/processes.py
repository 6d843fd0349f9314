"""Cohorts in several processes of this machine, each with its share of the threads, or a GPU.

A process is `python -m kdbench.grid.worker`. It is given jobs and tells events over a socket; bar, MLflow and records
stay here, as they do for `Here`. A process that dies is replaced and its job done again from what was saved; when that
dies too the job's cells are tried one by one, so that only the one which kills its process fails.
"""

import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from kdbench.grid.events import Events, Stop
from kdbench.grid.executors import Job, Queue, wait_for
from kdbench.grid.outcome import record_of
from kdbench.grid.parcel import absent_teachers
from kdbench.locks import attempt, owner_of
from kdbench.train.loop import Stopped

EVERY = 0.2  # seconds between two looks at whether the run is to stop
TRIES = 2  # of a job, before its cells are tried one by one


@dataclass(frozen=True)
class Share:
    """What one process has: CPU threads, the device it trains on, and how many there are."""

    threads: int
    device: str
    of: int = 1


@dataclass
class Seat:
    """One process and what it works on. `lock`: holds the lock of its job as long as it has one."""

    share: Share
    process: "subprocess.Popen[bytes]"
    connection: Connection
    job: Job | None = None
    lock: ExitStack = field(default_factory=ExitStack)
    what: str = ""

    def give(self, job: Job, lock: ExitStack, cells: Sequence[Any]) -> None:
        self.job, self.lock = job, lock
        place = replace(job.place, device=self.share.device, processes=self.share.of)
        with suppress(OSError):  # it is dead: the next look at it tells
            self.connection.send(replace(job, cells=tuple(cells), place=place))

    def rest(self) -> None:
        """It has no job any more."""
        self.job, self.what = None, ""
        self.lock.close()
        self.lock = ExitStack()


class Processes:
    """One process for each of `shares`."""

    def __init__(self, shares: Sequence[Share]) -> None:
        self.shares = shares
        self.threads, self.count = shares[0].threads, len(shares)
        each = f"{self.threads} thread{'s' * (self.threads > 1)} each"
        self.about = f"in {len(shares)} processes of {each}"
        self.deaths: dict[tuple[str, ...], int] = {}

    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
        seats = [start(share) for share in self.shares[: max(len(queue.jobs) for queue in queues)]]
        try:
            for queue in queues:
                self.work_off(queue, seats, events, stop)
        finally:
            for seat in seats:
                with suppress(OSError):
                    seat.connection.send(None)  # stop, with your state saved
            while busy := [seat for seat in seats if seat.job]:
                self.listen(queue, busy, events, ending=True)
            for seat in seats:
                seat.connection.close()
                seat.process.wait()

    def work_off(self, queue: Queue, seats: Sequence[Seat], events: Events, stop: Stop) -> None:
        self.pending = deque(queue.jobs)
        while self.pending or any(seat.job for seat in seats):
            if stop():
                raise Stopped
            self.give_out(queue, seats)
            if self.pending and not any(seat.job for seat in seats):
                wait_for(owner_of(queue.lock_of(self.pending[0])), events, stop)
                continue
            self.listen(queue, seats, events)

    def give_out(self, queue: Queue, seats: Sequence[Seat]) -> None:
        """A job to every process that has none: rather one whose teacher no other process is at work on."""
        for seat in seats:
            if seat.job is None and self.pending:
                busy = {key for other in seats if other.job for key in absent_teachers(other.job)}
                if not self.gave(queue, seat, busy) and busy:
                    self.gave(queue, seat, set())  # it reads its data meanwhile

    def gave(self, queue: Queue, seat: Seat, busy: set[str]) -> bool:
        """Did the process get a job? One that no other run works on, and that needs no teacher of `busy`."""
        for _ in range(len(self.pending)):
            job, lock = self.pending.popleft(), ExitStack()
            if not busy.isdisjoint(absent_teachers(job)) or not lock.enter_context(attempt(queue.lock_of(job))):
                self.pending.append(job)  # later
            elif cells := queue.open_cells(job):
                seat.give(job, lock, cells)
                return True
            lock.close()
        return False

    def listen(self, queue: Queue, seats: Sequence[Seat], events: Events, ending: bool = False) -> None:
        """Pass on what the processes tell, for a moment."""
        by_connection = {seat.connection: seat for seat in seats}
        for connection in wait(list(by_connection), EVERY):
            assert isinstance(connection, Connection)
            seat = by_connection[connection]
            try:
                name, *given = connection.recv()
            except (EOFError, OSError):
                self.died(queue, seat, events, ending)
                continue
            if name == "rests":
                seat.rest()
                tell_now(seats, events)
            elif name == "raises":
                seat.rest()
                if not ending:
                    raise given[0]
            elif name == "now":
                seat.what = given[0]
                tell_now(seats, events)
            else:
                getattr(events, name)(*given)

    def died(self, queue: Queue, seat: Seat, events: Events, ending: bool) -> None:
        """Its job goes back into the queue, and a new process takes its place."""
        how, job = ended(seat.process), seat.job
        cells = queue.open_cells(job) if job is not None else []
        seat.rest()
        if ending:
            return
        seat.connection.close()
        fresh = start(seat.share)
        seat.process, seat.connection = fresh.process, fresh.connection
        if job is None or not cells:
            return
        name = tuple(cell.key for cell in job.cells)
        self.deaths[name] = self.deaths.get(name, 0) + 1
        events.say(f"the process that trained {cells[0].pair}, seed {cells[0].seed}, {how}; another one goes on")
        if self.deaths[name] < TRIES:
            self.pending.appendleft(job)
        elif len(cells) > 1:
            self.pending.extendleft(replace(job, cells=(cell,)) for cell in reversed(cells))
        else:
            device = torch.device(seat.share.device)
            events.finished(record_of(cells[0], device, "failed", f"the process that trained it {how}, twice"), None)


def tell_now(seats: Sequence[Seat], events: Events) -> None:
    """What each is at; of one that rests nothing."""
    if working := [seat.what for seat in seats if seat.what]:
        events.now("  |  ".join(working))


def start(share: Share) -> Seat:
    """A new process at the other end of a socket. Its process group is its own: Ctrl-C in a terminal is for us."""
    ours, theirs = socket.socketpair()
    environment = {**os.environ, "OMP_NUM_THREADS": str(share.threads)}
    command = [sys.executable, "-m", "kdbench.grid.worker", str(theirs.fileno()), str(share.threads)]
    process = subprocess.Popen(
        command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, process_group=0
    )
    theirs.close()
    return Seat(share, process, Connection(ours.detach()))


def ended(process: "subprocess.Popen[bytes]") -> str:
    """How it came to its end, in words."""
    code = process.wait()
    if code == -9:
        return "was killed (by signal 9: was there memory enough?)"
    return f"was ended by signal {-code}" if code < 0 else f"ended by itself with code {code}"

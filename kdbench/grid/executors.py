"""Where cohorts run. `Here`: one after another in this process.

A job is worked on under a lock of its own, which the process that gives it out holds: several runs may share a results
folder. A cell is done when its record exists, so whatever dies, the next run goes on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Protocol

from kdbench.grid.cohort import Place, Worker
from kdbench.grid.events import Events, Stop
from kdbench.layout import SuiteFolder
from kdbench.locks import attempt, owner_of
from kdbench.suite.cells import Cell
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.train.group import ALONE, Group
from kdbench.train.loop import Stopped


@dataclass(frozen=True)
class Job:
    """Cells of one cohort, and what another process must know to train them: plugins, and where things lie."""

    cells: tuple[Cell, ...]
    plugins: tuple[Path, ...]
    place: Place

    def open(self) -> None:
        """Load what its cells speak of, in a process that did not load it yet."""
        load_methods()
        for path in self.plugins:
            load_plugin(path)

    @property
    def key(self) -> str:
        """Under which it is locked."""
        return self.cells[0].cohort


@dataclass(frozen=True)
class Queue:
    """The jobs of a run. `folder`: where their locks lie; `open_cells`: those of a job that still are to do."""

    jobs: Sequence[Job]
    folder: SuiteFolder
    open_cells: Callable[[Job], list[Cell]]

    def lock_of(self, job: Job) -> Path:
        return self.folder.cohort_lock(job.key)


class Executor(Protocol):
    """Runs every job that no other run works on; then, patiently, what the others left. Raises Stopped.

    One queue after another: what stands in a later one begins with what an earlier one left. There is one at least.
    `threads`: of each process that trains; None: as many as this one has. `about`: what a run says of it; may be empty.
    `count`: how many cohorts train at a time; 1 where that is not known before.
    """

    count: int

    @property
    def threads(self) -> int | None: ...
    @property
    def about(self) -> str: ...
    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None: ...


class Here:
    """In this process."""

    threads: int | None = None
    count = 1
    about = ""
    group: Group = ALONE

    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
        worker_at = cache(lambda place: Worker(place, events, stop, self.group))
        for queue in queues:
            pending = list(queue.jobs)
            while pending:
                waiting = [job for job in pending if not self.tried(queue, job, worker_at)]
                if len(waiting) == len(pending):
                    wait_for(owner_of(queue.lock_of(waiting[0])), events, stop)
                pending = waiting

    def tried(self, queue: Queue, job: Job, worker_at: Callable[[Place], Worker]) -> bool:
        """Train what of the job is to do, but where another run has it."""
        with attempt(queue.lock_of(job)) as mine:
            if mine and (cells := queue.open_cells(job)):
                self.train(worker_at(self.place_of(job)), replace(job, cells=tuple(cells)))
            return mine

    def place_of(self, job: Job) -> Place:
        return job.place

    def train(self, worker: Worker, job: Job) -> None:
        worker.run(job.cells)


def wait_for(owner: str, events: Events, stop: Stop) -> None:
    """A second, while another run has all that is left. Raises Stopped."""
    events.now(f"waiting for {owner}")
    if stop():
        raise Stopped
    time.sleep(1)

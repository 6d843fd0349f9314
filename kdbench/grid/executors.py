"""Where cohorts run. `Here`: one after another in this process.

A job is worked on under a lock of its own, which the process that gives it out holds: several runs may share a results
folder. A cell is done when its record exists, so whatever dies, the next run goes on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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

    `threads`: of each process that trains; None: as many as this one has. `about`: what a run says of it; may be empty.
    `count`: how many cohorts train at a time; 1 where that is not known before.
    """

    count: int

    @property
    def threads(self) -> int | None: ...
    @property
    def about(self) -> str: ...
    def run(self, queue: Queue, events: Events, stop: Stop) -> None: ...


class Here:
    """In this process."""

    threads: int | None = None
    count = 1
    about = ""
    group: Group = ALONE

    def run(self, queue: Queue, events: Events, stop: Stop) -> None:
        worker: Worker | None = None
        pending = list(queue.jobs)
        while pending:
            waiting = []
            for job in pending:
                with attempt(queue.lock_of(job)) as mine:
                    if not mine:
                        waiting.append(job)
                        continue
                    worker = worker or Worker(self.place_of(job), events, stop, self.group)
                    worker.run(self.cells_of(queue, job))
            if len(waiting) == len(pending):
                wait_for(owner_of(queue.lock_of(waiting[0])), events, stop)
            pending = waiting

    def place_of(self, job: Job) -> Place:
        return job.place

    def cells_of(self, queue: Queue, job: Job) -> Sequence[Cell]:
        return queue.open_cells(job)


def wait_for(owner: str, events: Events, stop: Stop) -> None:
    """A second, while another run has all that is left. Raises Stopped."""
    events.now(f"waiting for {owner}")
    if stop():
        raise Stopped
    time.sleep(1)

"""Cohorts as tasks of Ray, on this machine or on a cluster. Ray places them; all else is as with other executors.

Bar, MLflow, records and locks stay with the driver, and so do teachers and checkpoints (`parcel.py`): nodes need no
folder in common. Cohorts that need a teacher which is not there yet wait until one of them has trained it.
"""

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kdbench.errors import UserError
from kdbench.grid.events import Events, Stop
from kdbench.grid.executors import Job, Queue, wait_for
from kdbench.grid.outcome import record_of
from kdbench.grid.parcel import Files, absent_teachers, packed, put
from kdbench.grid.processes import TRIES
from kdbench.grid.ray_cluster import capacity, connected, first_words, here, lacking, resources, told_of_loss
from kdbench.grid.ray_node import Mailbox, train
from kdbench.layout import Layout, SuiteFolder
from kdbench.locks import attempt, owner_of
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.cells import Cell
from kdbench.train.loop import Stopped

EVERY = 0.2  # seconds between two looks
PATIENCE = 60.0  # seconds for nodes to save and end; what they did not send by then is lost


@dataclass
class Task:
    """A job that was handed to Ray. `lock`: holds the job's lock, and those of the teachers that it is to train."""

    job: Job
    ref: Any
    lock: ExitStack
    what: str = ""


@dataclass
class OnRay:
    """`threads`, `memory` (bytes): of a task. `address`: of a cluster; None: RAY_ADDRESS, else Ray on this machine."""

    threads: int
    memory: float
    device: torch.device
    address: str | None = None
    deaths: dict[tuple[str, ...], int] = field(default_factory=dict)
    count: int = 1

    @property
    def about(self) -> str:
        return f"as tasks of Ray with {self.threads} thread{'s' * (self.threads > 1)} each"

    def run(self, queues: Sequence[Queue], events: Events, stop: Stop) -> None:
        self.tasks = dict[int, Task]()
        with connected(self.address) as ray, told_of_loss(ray):
            self.check_nodes(ray.nodes(), events)
            mailbox = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here(ray))(Mailbox).remote()
            self.remote = ray.remote(max_retries=0, **self.needs())(train)
            for queue in queues:
                self.work_off(ray, queue, mailbox, events, stop)

    def work_off(self, ray: Any, queue: Queue, mailbox: Any, events: Events, stop: Stop) -> None:
        self.pending = deque(queue.jobs)
        try:
            while self.pending or self.tasks:
                if stop():
                    raise Stopped
                self.give_out(ray, queue, mailbox, events, stop)
                self.listen(ray, queue, mailbox, events)
        finally:
            self.end(ray, queue, mailbox, events)

    def needs(self) -> dict[str, float]:
        gpus = {"num_gpus": 1} if self.device.type == "cuda" else {}
        return {"num_cpus": self.threads, "memory": self.memory, **gpus}

    def check_nodes(self, nodes: Sequence[dict[str, Any]], events: Events) -> None:
        """Say what the cluster lacks. Raises UserError where it never will have it: on a Ray of this machine alone."""
        if lacks := lacking(nodes, self.needs()):
            less = "ask for less by OMP_NUM_THREADS or a larger --jobs"
            if not (self.address or os.environ.get("RAY_ADDRESS")):
                raise UserError(f"--executor ray: {lacks}; {less}")
            events.say(f"{lacks}: waiting for one that has; or {less}")
        if self.device.type == "cpu" and any(alive.get("GPU") for alive in resources(nodes)):
            events.say("the cluster has GPUs, but this run has not: its cohorts train on CPUs; start it where a GPU is")

    def give_out(self, ray: Any, queue: Queue, mailbox: Any, events: Events, stop: Stop) -> None:
        """As many tasks as the cluster has room for, and no more: a task that waits would hold its lock."""
        room = capacity(ray.nodes(), self.needs()) - len(self.tasks)
        for _ in range(len(self.pending)):
            if room <= 0:
                return
            job, lock = self.pending.popleft(), ExitStack()
            if not self.lock(queue, job, lock):
                self.pending.append(job)  # another run has it, or a teacher is being trained: later
            elif cells := queue.open_cells(job):
                self.hand_over(replace(job, cells=tuple(cells)), lock, mailbox)
                room -= 1
                continue
            lock.close()
        if self.pending and not self.tasks and room > 0:
            wait_for(owner_of(queue.lock_of(self.pending[0])), events, stop)

    def lock(self, queue: Queue, job: Job, lock: ExitStack) -> bool:
        """Its own lock, and one for each teacher that is not there yet."""
        teachers = Layout(job.place.results).teachers
        wanted = [teachers.lock(key) for key in absent_teachers(job)]
        return all(lock.enter_context(attempt(path)) for path in [queue.lock_of(job), *wanted])

    def hand_over(self, job: Job, lock: ExitStack, mailbox: Any) -> None:
        number = self.given = getattr(self, "given", 0) + 1
        self.tasks[number] = Task(job, self.remote.remote(packed(job, self.threads), mailbox, number), lock)

    def listen(self, ray: Any, queue: Queue, mailbox: Any, events: Events) -> None:
        """Pass on what the nodes tell, and see which tasks are over."""
        by_ref = {task.ref: number for number, task in self.tasks.items()}
        over, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=EVERY) if by_ref else ([], [])
        self.read(ray.get(mailbox.take.remote()), queue, events)  # after the look: all that they told is there
        for ref in over:
            task = self.tasks.pop(by_ref[ref])
            try:
                self.ended(queue, task, ray.get(ref), events)
            except (ray.exceptions.RayError, ray.exceptions.RayTaskError) as error:
                self.died(queue, task, first_words(error), events)
            finally:
                task.lock.close()

    def read(self, letters: Sequence[tuple[int, Any]], queue: Queue, events: Events) -> None:
        for number, (name, *given) in letters:
            if name == "files":
                self.keep(given[0], queue.folder)
            elif name == "now":
                if number in self.tasks:
                    self.tasks[number].what = given[0]
                whats = [task.what for task in self.tasks.values() if task.what]
                events.now("  |  ".join(whats[:4]) + (f"  | and {len(whats) - 4} more" if len(whats) > 4 else ""))
            else:
                getattr(events, name)(*given)

    def keep(self, files: Files, folder: SuiteFolder) -> None:
        """What came into being on a node; but no checkpoint of what is done by now."""
        there = {name: content for name, content in files.items() if not is_over(name, folder)}
        put(there, folder.results)
        for name in there:
            path = folder.results / name
            if path.parent == Layout(folder.results).teachers.path and path.suffix == ".json":
                Checkpoints(Layout(folder.results).teachers.checkpoints).remove(path.stem)

    def ended(self, queue: Queue, task: Task, raised: str | None, events: Events) -> None:
        if raised is not None:
            self.fail(queue.open_cells(task.job), raised, events)

    def fail(self, cells: Sequence[Cell], reason: str, events: Events) -> None:
        for cell in cells:
            events.finished(record_of(cell, self.device, "failed", reason), None)

    def died(self, queue: Queue, task: Task, how: str, events: Events) -> None:
        """Its job goes back; when it dies again its cells are tried one by one, so that only the one to blame fails."""
        cells = queue.open_cells(task.job)
        if not cells:
            return
        name = tuple(cell.key for cell in task.job.cells)
        self.deaths[name] = self.deaths.get(name, 0) + 1
        events.say(f"{cells[0].pair}, seed {cells[0].seed}: {how}; it goes on elsewhere")
        if self.deaths[name] < TRIES:
            self.pending.appendleft(task.job)
        elif len(cells) > 1:
            self.pending.extendleft(replace(task.job, cells=(cell,)) for cell in reversed(cells))
        else:
            self.fail(cells, f"{how}, twice", events)

    def end(self, ray: Any, queue: Queue, mailbox: Any, events: Events) -> None:
        """Tasks that still run save their state and send it; those that did not begin never will."""
        until = time.monotonic() + PATIENCE
        with suppress(ray.exceptions.RayError):
            self.read(ray.get(mailbox.take.remote()), queue, events)
            for number in [number for number, task in self.tasks.items() if not task.what]:
                task = self.tasks.pop(number)
                task.lock.close()
                ray.cancel(task.ref)
            if self.tasks:
                ray.get(mailbox.stop.remote())
            while self.tasks and time.monotonic() < until:
                self.listen(ray, queue, mailbox, events)
        for task in self.tasks.values():
            task.lock.close()


def is_over(name: str, folder: SuiteFolder) -> bool:
    """Is it a checkpoint of a cell that has its record?"""
    path = folder.results / name
    return path.parent == folder.checkpoints and folder.record(path.name.split(".")[0]).is_file()

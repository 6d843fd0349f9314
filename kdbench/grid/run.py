"""Runs what a plan leaves to do, with whatever executor, and records what comes of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

import torch

from kdbench.grid.cohort import Place
from kdbench.grid.events import Stop
from kdbench.grid.executors import Executor, Job, Queue
from kdbench.grid.outcome import record_of
from kdbench.grid.plan import Plan
from kdbench.grid.proof import prove
from kdbench.grid.recorder import Recorder
from kdbench.results.records import is_final
from kdbench.suite.cells import Cell


@contextmanager
def using(threads: int | None) -> Iterator[None]:
    """As many threads as whoever trains will have."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_plan(plan: Plan, place: Place, executor: Executor, recorder: Recorder, stop: Stop) -> None:
    """Every cell that is not done. Raises Stopped, and CannotWrite when the disk is full."""
    device = torch.device(place.device)
    for status, reasons in (("skipped", plan.inapplicable), ("failed", plan.failing)):
        for cell in plan.cells:
            if cell.key in reasons:
                recorder.finished(record_of(cell, device, status, reasons[cell.key]), None)
    for key in recorder.checkpoints.saved():
        if is_final(plan.records.get(key)):  # its run died between the record and this
            recorder.checkpoints.remove(key)

    def is_open(cell: Cell) -> bool:
        """Has it no final record yet, and did it not fail in another process since this run began?"""
        record, before = recorder.records.read(cell.key), plan.records.get(cell.key)
        if record is None or is_final(record):
            return record is None
        return before is not None and before.get("finished") == record.get("finished")

    with using(executor.threads):
        prove(plan, device, recorder.say)
    queues = []
    for _, cohorts in groupby(plan.cohorts, key=lambda cohort: cohort[0].depth):  # what others begin with comes first
        jobs = [Job(tuple(cohort), plan.plugins, place) for cohort in cohorts]
        queues.append(Queue(jobs, recorder.folder, lambda job: [cell for cell in job.cells if is_open(cell)]))
    if queues:
        executor.run(queues, recorder, stop)

"""What runs on a node of a Ray cluster: one job after another in a process of Ray's.

It tells events to the driver's mailbox, and asks there whether the run is to stop.
"""

import atexit
import os
import platform
import shutil
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kdbench.data import digest_of
from kdbench.errors import UserError, first_line, in_words
from kdbench.grid.cohort import Worker
from kdbench.grid.executors import Job
from kdbench.grid.parcel import News, Parcel
from kdbench.grid.worker import Telling
from kdbench.results.schema import Record
from kdbench.train.loop import Stopped

EVERY = 1.0  # seconds between two looks at whether the run is to stop, and at what is new to send


class Mailbox:
    """An actor beside the driver: letters in, and the word to stop out."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, Any]] = []
        self.stopping = False

    def put(self, number: int, letter: Any) -> None:
        self.letters.append((number, letter))

    def take(self) -> list[tuple[int, Any]]:
        found, self.letters = self.letters, []
        return found

    def stop(self) -> None:
        self.stopping = True

    def is_stopping(self) -> bool:
        return self.stopping


class Line:
    """To the mailbox, for job `number`: what `Telling` calls a connection. Letters arrive in their order."""

    def __init__(self, mailbox: Any, number: int) -> None:
        self.mailbox, self.number = mailbox, number
        self.stopping = False
        self.last: Any = None

    def send(self, letter: Any) -> None:
        self.last = self.mailbox.put.remote(self.number, letter)

    def flush(self) -> None:
        """Return when all has arrived."""
        import ray

        if self.last is not None:
            ray.get(self.last)

    def ask(self) -> None:
        import ray

        self.stopping = ray.get(self.mailbox.is_stopping.remote())


class Post:
    """Sends the files that are new; two threads do."""

    def __init__(self, line: Line, news: News) -> None:
        self.line, self.news, self.lock = line, news, threading.Lock()

    def send(self) -> None:
        with self.lock:
            if files := self.news.look():
                self.line.send(("files", files))


class FilesFirst(Telling):
    """A cell is told to be finished after its files were sent: then the driver has them when it writes the record."""

    def __init__(self, line: Line, post: Post) -> None:
        super().__init__(line)
        self.post = post

    def finished(self, record: Record, student: bytes | None) -> None:
        self.post.send()
        super().finished(record, student)


def train(parcel: Parcel, mailbox: Any, number: int) -> str | None:
    """The job, to its end or until the run stops. Gives what it raised, in words that name this node."""
    line = Line(mailbox, number)
    line.ask()
    line.send(("now", f"starting on {platform.node()}"))
    torch.set_num_threads(parcel.threads)
    results = folder() / "results"
    job = parcel.unpack(results, "cuda:0" if torch.device(parcel.job.place.device).type == "cuda" else "cpu")
    post, over = Post(line, News(results)), threading.Event()
    watch = threading.Thread(target=look, args=(line, post, over), daemon=True)
    watch.start()
    try:
        job.open()
        check_data(job)
        worker = worker_of(job)
        worker.events, worker.stop = FilesFirst(line, post), lambda: line.stopping
        if not line.stopping:
            worker.run(job.cells)
    except Stopped:
        pass
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"node {platform.node()}: {in_words(error)}"
    finally:
        over.set()
        watch.join()
        line.flush()
        shutil.rmtree(results, ignore_errors=True)
    return None


def look(line: Line, post: Post, over: threading.Event) -> None:
    """Until the job is over, and once more."""
    while True:
        last = over.wait(EVERY)
        post.send()
        if last:
            return
        line.ask()


def check_data(job: Job) -> None:
    """Raises UserError that names the node where its data are not those of the driver."""
    cell = job.cells[0]
    try:
        here = digest_of(cell.dataset.name, cell.dataset.settings, job.place.data)
    except Exception as error:
        here = first_line(error)
    if here != cell.data:
        where = f"node {platform.node()}: data set {cell.dataset.name} in {job.place.data}"
        raise UserError(f"{where} is not there, or not what it is where the run was started")


@cache
def folder() -> Path:
    """Of this process, for as long as it lives."""
    place = Path(tempfile.mkdtemp(prefix=f"kdbench-{os.getpid()}-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


_workers: dict[Any, Worker] = {}


def worker_of(job: Job) -> Worker:
    """The last one, which has the data at hand, where it trains at the same place."""
    if job.place not in _workers:
        _workers.clear()
        _workers[job.place] = Worker(job.place, Telling(Line(None, 0)))
    return _workers[job.place]

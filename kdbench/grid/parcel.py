"""A job with all that another machine does not have: plugins, teachers, checkpoints. They travel as files' contents.

What comes into being there comes back the same way, so that no folder need be shared.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kdbench.files import write_atomic
from kdbench.grid.executors import Job
from kdbench.layout import Layout
from kdbench.results.checkpoints import SUFFIX
from kdbench.suite.plugins import files_of_plugin
from kdbench.suite.starts import teaching

Files = dict[str, bytes]  # by their path below the results folder
KEPT = (SUFFIX, ".safetensors", ".onnx", ".json")  # in the order in which they are written: a record comes last


@dataclass(frozen=True)
class Parcel:
    """`plugins`: the files of each by their path in its folder, itself first. `threads`: to train with."""

    job: Job
    files: Files
    plugins: tuple[Files, ...]
    threads: int

    def unpack(self, results: Path, device: str) -> Job:
        """The job as it is on this machine, its files put where it looks for them."""
        put(self.files, results)
        places = []
        for number, files in enumerate(self.plugins):
            folder = results.parent / "plugins" / str(number)
            for name, content in files.items():
                write_atomic(folder / name, content)
            places.append(folder / next(iter(files)))
        place = replace(self.job.place, results=results, device=device)
        return replace(self.job, plugins=tuple(places), place=place)


def packed(job: Job, threads: int) -> Parcel:
    results = job.place.results
    files = {path.relative_to(results).as_posix(): path.read_bytes() for path in files_of(job) if path.is_file()}
    plugins = tuple({name: file.read_bytes() for name, file in files_of_plugin(path).items()} for path in job.plugins)
    return Parcel(job, files, plugins, threads)


def files_of(job: Job) -> Iterator[Path]:
    """What earlier runs left for it: teachers, students that its cells begin with, and how far its cells are."""
    layout = Layout(job.place.results)
    for key in teachers_of(job):
        yield from (layout.teachers.record(key), layout.teachers.weights(key))
        yield from layout.teachers.checkpoints.glob(f"{key}.*{SUFFIX}")
    for cell in job.cells:
        if (before := cell.before) is not None:
            yield from (layout.suite(before.suite).record(before.key), layout.suite(before.suite).student(before.key))
        yield from layout.suite(cell.suite).checkpoints.glob(f"{cell.key}.*{SUFFIX}")


def teachers_of(job: Job) -> list[str]:
    """Keys of its teacher and of that one's own teachers; and of those that its students begin with."""
    return list({key: None for cell in job.cells for key in teaching(cell)})


def absent_teachers(job: Job) -> list[str]:
    """Keys of those that nobody has trained yet."""
    teachers = Layout(job.place.results).teachers
    return [key for key in teachers_of(job) if not teachers.record(key).is_file()]


def put(files: Files, results: Path) -> None:
    """Write what came. Raises ValueError for a path that leads elsewhere."""
    for name, content in files.items():
        path = results / name
        if not path.resolve().is_relative_to(results.resolve()) or path.suffix not in KEPT:
            raise ValueError(f"{name!r} is no file of a results folder")
        write_atomic(path, content)


class News:
    """The files below `results` that are new or changed since the last look."""

    def __init__(self, results: Path) -> None:
        self.results = results
        self.seen: dict[Path, tuple[int, int]] = {}
        self.look()

    def look(self) -> Files:
        found: Files = {}
        for suffix in KEPT:
            for path in sorted(self.results.rglob(f"[!.]*{suffix}")):
                try:
                    mark = path.stat().st_mtime_ns, path.stat().st_size
                    if self.seen.get(path) != mark:
                        found[path.relative_to(self.results).as_posix()] = path.read_bytes()
                except FileNotFoundError:  # removed meanwhile
                    continue
                self.seen[path] = mark
        return found

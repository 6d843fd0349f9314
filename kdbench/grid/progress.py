"""A bar with what is running, the rate and the time left; plain lines where there is no terminal."""

import time
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from kdbench.display import shown

EVERY = 15.0  # seconds between plain lines
WARM_UP = 3.0  # seconds that say nothing of what follows


class Bar:
    """Counts member-steps: one student, one batch. Use as a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.console.file = cast(IO[str], shown(self.console.file))
        self.total, self.done, self.what = max(total, 1), 0, ""
        self.start = self.last = time.monotonic()
        self.warm: tuple[float, int] | None = None  # when it had warmed up, and how many steps were made by then
        self.bar: Progress | None = None
        self.task: Any = None
        if self.console.is_terminal:
            name = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # cut where the terminal is narrow
            self.bar = Progress(
                TextColumn("{task.percentage:3.0f}%"), TextColumn("{task.fields[left]}"),
                TextColumn("{task.description}", table_column=name), BarColumn(bar_width=20),
                TextColumn("{task.fields[rate]}"), console=self.console, transient=True, expand=True,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=self.total, rate="", left="")

    def __enter__(self) -> "Bar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def now(self, what: str) -> None:
        """What is running from here on."""
        self.what = what
        if self.bar:
            self.bar.update(self.task, description=what)

    def advance(self, steps: int, examples: int) -> None:
        """`steps` member-steps of `examples` each were made."""
        self.done += steps
        elapsed = time.monotonic() - self.start
        rate = f"{self.done * examples / max(elapsed, 1e-9):,.0f} examples/s"
        if self.bar:
            self.bar.update(self.task, completed=self.done, rate=rate, left=self.left())
        elif time.monotonic() - self.last > EVERY:
            self.last = time.monotonic()
            self.say(f"{100 * self.done / self.total:3.0f}%  {self.left()}  {self.what}  {rate}")

    def left(self) -> str:
        """`2:03 left`, by the rate since a little after the start: the first steps are made twice, and warm up."""
        now = time.monotonic()
        if self.warm is None:
            self.warm = (now, self.done) if now - self.start > WARM_UP else None
        since, before = self.warm or (now, self.done)
        if self.done == before:
            return "left: ?"
        return f"{clock((now - since) * (self.total - self.done) / (self.done - before))} left"

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.console.file.flush()


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

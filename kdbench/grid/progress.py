"""A bar with what is running, the rate and the time left; plain lines where there is no terminal."""

import time
from collections import Counter, deque
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text

from kdbench.display import shown
from kdbench.grid.forecast import Forecast, Piece

EVERY = 15.0  # seconds between plain lines
REDRAWN = 0.1  # seconds between two looks of the bar
MINUTE = 60.0  # seconds that the rate is of
WARM_UP = 3.0  # seconds that say nothing of what follows
TRUST = 10.0  # seconds of a run that a measured forecast weighs as much as
MOST = 0.99  # of the steps: a run that measures and writes after its last one is not at its end


class Bar:
    """Counts member-steps (one student, one batch) and weighs them by a forecast. Use as a context manager.

    `total`: member-steps; until a forecast is given each counts alike.
    """

    warm: tuple[float, float] | None

    def __init__(self, total: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.console.file = cast(IO[str], shown(self.console.file))
        self.what, self.seen = "", 0
        self.last = self.stepped = time.monotonic()
        self.recent = deque([(self.last, 0)])  # when so many examples had been seen, of the last minute
        self.expect(Forecast(cohorts={"": Piece(float(max(total, 1)), max(total, 1))}))
        self.bar: Progress | None = None
        self.task: Any = None
        if self.console.is_terminal:
            name = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # cut where the terminal is narrow
            self.bar = Progress(
                TextColumn("{task.percentage:3.0f}%"), Left(self),
                TextColumn("{task.description}", table_column=name), BarColumn(bar_width=20),
                TextColumn("{task.fields[rate]}"), console=self.console, transient=True, expand=True,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=self.whole, rate="")

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

    def measuring(self, what: str) -> None:
        self.now(f"measuring {what}")

    def expect(self, forecast: Forecast) -> None:
        """How long what is to come takes, each part of it."""
        self.forecast, self.done = forecast, Counter[str]()
        self.whole = max(forecast.left({}), 1e-9)
        self.since, self.warm = time.monotonic(), None  # when it had warmed up, and what was left then

    def advance(self, steps: int, examples: int, piece: str = "") -> None:
        """`steps` member-steps of `examples` each were made of a piece of the forecast."""
        self.done[piece] += steps
        self.seen += steps * examples
        now = self.stepped = time.monotonic()
        if self.warm is None and now - self.since > WARM_UP:
            self.warm = now, self.forecast.left(self.done)
        if now - self.last < (REDRAWN if self.bar else EVERY):
            return
        self.last, done = now, min(self.whole - self.forecast.left(self.done), MOST * self.whole)
        rate = f"{self.rate(now):,.0f} examples/s"
        if self.bar:
            self.bar.update(self.task, total=self.whole, completed=done, rate=rate)
        else:
            self.say(f"{100 * done / self.whole:3.0f}%  {self.left()}  {self.what}  {rate}")

    def rate(self, now: float) -> float:
        """Examples a second over the last minute, or since there is one."""
        while len(self.recent) > 1 and self.recent[1][0] < now - MINUTE:
            self.recent.popleft()
        since, before = self.recent[0]
        self.recent.append((now, self.seen))
        return (self.seen - before) / max(now - since, 1e-9)

    def passed(self, steps: int, piece: str) -> None:
        """So many were made in an earlier run: they say nothing of how fast this one is."""
        self.done[piece] += steps
        if steps:
            self.since, self.warm = time.monotonic(), None

    def left(self) -> str:
        """`2:03 left`, by the pace since a little after the start: the first steps are made twice, and warm up.

        The pace is that up to the last step: between two, and in an evaluation, the time left does not grow.
        """
        rest = self.forecast.left(self.done)
        if rest <= 0:
            return f"{clock(max(0.0, self.forecast.ending - (time.monotonic() - self.stepped)))} left"
        since, before = self.warm or (self.stepped, rest)
        trust = TRUST if self.forecast.sure else 0.0
        if before - rest + trust <= 0:
            return "left: ?"
        pace = (self.stepped - since + trust) / (before - rest + trust)
        return f"{clock(rest * pace + self.forecast.ending)} left"

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self.console.file.flush()


class Left(ProgressColumn):
    """The time left, looked at whenever the bar is drawn: it goes on after the last step."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Any) -> Text:
        return Text(self.bar.left())


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

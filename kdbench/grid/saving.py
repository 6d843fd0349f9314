"""When and what of a member's state is saved."""

import time
from collections.abc import Iterator
from typing import Any

from kdbench.train.group import ALONE, Group
from kdbench.train.lent import Guard
from kdbench.train.trial import Trial


class Pace:
    """When state is to be saved: every so many seconds, and so rarely that saving takes 2% of the time at most."""

    def __init__(self, every: float) -> None:
        self.every = every
        self.start = self.asked = time.monotonic()

    def due(self) -> bool:
        self.asked = time.monotonic()
        return self.asked >= self.start + self.every

    def saved(self) -> None:
        """Call it after what `due` asked for was done."""
        took = time.monotonic() - self.asked
        self.start = time.monotonic() + max(0.0, 50 * took - self.every)


def other_devices(what: str, trial: Trial) -> Iterator[str]:
    """A line where its training goes on with another number of them than began it."""
    if trial.earlier:
        began = ", then ".join(map(str, trial.earlier))
        yield f"{what}: {began} devices began it and {trial.group.size} go on: other last digits"


def state_of(trial: Trial, group: Group = ALONE) -> dict[str, Any] | None:
    """Its state; None where making it raises, which ends the trial."""
    try:
        with Guard():
            return trial.state()
    except Exception as error:
        group.raised(error)
        trial.fail(error)
        return None

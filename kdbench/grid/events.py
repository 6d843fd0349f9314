"""What goes from whoever trains to whoever shows and records. Events hold data alone: they may cross processes."""

from collections.abc import Callable
from typing import Protocol

from kdbench.results.schema import Record

Stop = Callable[[], bool]  # asked after every step: is the run to end, with its state saved?


class Events(Protocol):
    """Bar, MLflow and records stay where this is implemented; a cohort knows nothing of them."""

    def now(self, what: str) -> None:
        """What is running from here on."""
        ...

    def say(self, line: str) -> None:
        """A line for the user that stays."""
        ...

    def advance(self, members: int, batch_size: int, piece: str = "") -> None:
        """A step was made by so many members; `piece`: the key of their cohort, or of the teacher that is trained."""
        ...

    def passed(self, steps: int, piece: str) -> None:
        """So many steps of a member were made in an earlier run."""
        ...

    def epoch(self, head: Record, values: dict[str, float], number: int) -> None:
        """A cell ended epoch `number` (from 1); `head`: what is known of it; `values`: the last of each curve."""
        ...

    def finished(self, record: Record, student: bytes | None) -> None:
        """A cell came to its end; `student`: its weights as a safetensors file, where it was trained to the end."""
        ...

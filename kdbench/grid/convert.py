"""Cells that train nothing: each is the file that becomes of another cell's student."""

from collections.abc import Callable, Sequence

from kdbench.data import Splits
from kdbench.errors import first_line
from kdbench.files import CannotWrite
from kdbench.grid.events import Events
from kdbench.grid.outcome import Measure, record_of
from kdbench.method.contract import Inapplicable
from kdbench.results.schema import Record
from kdbench.suite.cells import Cell
from kdbench.train.lent import Guard
from kdbench.train.loop import Stopped


def convert(cells: Sequence[Cell], splits_of: Callable[[Cell], Splits], measure: Measure, events: Events) -> None:
    """Make the files of those among the cells that are one, and tell their ends. Raises Stopped and CannotWrite."""
    for cell in [cell for cell in cells if cell.then]:
        events.now(f"converting {cell.title}")
        events.finished(ended(cell, splits_of, measure), None)


def ended(cell: Cell, splits_of: Callable[[Cell], Splits], measure: Measure) -> Record:
    """The record of one: whatever raises is the cell's own end."""
    try:
        with Guard():
            details = measure.files.converted(cell, splits_of(cell), measure.profile_seconds)
            return record_of(cell, measure.device, "done", **details)
    except (Stopped, CannotWrite):
        raise
    except Inapplicable as reason:
        return record_of(cell, measure.device, "skipped", str(reason))
    except Exception as error:
        return record_of(cell, measure.device, "failed", first_line(error))

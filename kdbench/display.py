"""What is shown decides nothing: where a stream's reader went away, or its disk is full, the rest is not shown."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO, cast


class Display:
    """`stream`, but its failures are only noted: a closed pipe, a full disk, a terminal that is gone."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.failed = stream, False

    def write(self, text: str) -> int:
        with self._noting():
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                name = getattr(self.stream, "encoding", None) or "ascii"
                self.stream.write(text.encode(name, "backslashreplace").decode(name))
        return len(text)

    def flush(self) -> None:
        with self._noting():
            self.stream.flush()

    def isatty(self) -> bool:
        with self._noting():
            return self.stream.isatty()
        return False

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """ValueError: it is closed. RuntimeError: a signal's handler writes in the middle of another write."""
        try:
            yield
        except (OSError, ValueError, RuntimeError):
            self.failed = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Nowhere(io.TextIOBase):
    """A stream that shows nothing."""

    def write(self, text: str) -> int:
        return len(text)


def shown(stream: IO[str] | None) -> Display:
    """A Display of the stream, which may not be there at all (`2>&-`)."""
    return Display(cast(IO[str], Nowhere()) if stream is None else stream)


@contextmanager
def displays() -> Iterator[None]:
    """Make standard output and error such streams.

    One that failed stays so: Python's own last flush would end the process with code 120.
    """
    before = sys.stdout, sys.stderr
    made = shown(sys.stdout), shown(sys.stderr)
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], made)
    try:
        yield
    finally:
        for one in made:
            one.flush()
        kept = (now if now.failed else then for now, then in zip(made, before, strict=True))
        sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], tuple(kept))

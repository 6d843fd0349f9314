"""What a judgement shows while it trains: one line for what is running, and nothing is recorded."""

import sys

from kdbench.results.schema import Record


class Quiet:
    """`Events` that go to the terminal's error stream."""

    def now(self, what: str) -> None:
        print(what, file=sys.stderr)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr)

    def advance(self, members: int, batch_size: int, piece: str = "") -> None:
        pass

    def passed(self, steps: int, piece: str) -> None:
        pass

    def epoch(self, head: Record, values: dict[str, float], number: int) -> None:
        pass

    def finished(self, record: Record, student: bytes | None) -> None:
        pass

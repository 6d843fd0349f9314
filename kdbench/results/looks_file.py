"""What a run until decided was declared to be, kept beside its records: verdicts must be read by it ever after."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Self

from kdbench.errors import UserError
from kdbench.files import write_json
from kdbench.layout import SuiteFolder

Asked = Mapping[str, Mapping[str, int]]  # pair's title -> row's label -> how many of the declared seeds it is to have


@dataclass(frozen=True)
class Declared:
    """`seeds`: in the order in which they are added. At look k a row has the first `looks[k]` of them.

    `rows`: those of the suite when the looks were declared. `affordable`: seeds that the budget allowed, at each look.
    """

    looks: tuple[int, ...]
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    reference: str
    affordable: tuple[int, ...] = ()
    asked: Asked = field(default_factory=dict)

    def wanted(self, pair: str, label: str) -> tuple[int, ...]:
        """Seeds that a row of a pair is to have by now."""
        return self.seeds[: self.asked.get(pair, {}).get(label, self.looks[0])]

    def allowing(self, seeds: int, at: int) -> Self:
        """With a budget that allows so many seeds at the look at `at` seeds; at earlier ones as it was."""
        before = sum(look < at for look in self.looks)
        last = self.affordable[-1] if self.affordable else self.looks[-1]
        return replace(self, affordable=(*self.affordable[:before], *[last] * (before - len(self.affordable)), seeds))

    def asking(self, asked: Asked) -> Self:
        return replace(self, asked={**self.asked, **asked})


def read_looks(folder: SuiteFolder) -> Declared | None:
    """None where no run until decided was begun. Raises UserError when the file can't be read: it must not be lost."""
    try:
        found = json.loads(folder.looks.read_text(encoding="utf-8"))
        for name in ("looks", "seeds", "rows", "affordable"):
            found[name] = tuple(found[name])
        return Declared(**found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{folder.looks}: can't be read, and without it nobody knows how often the table was looked at"
        ) from error


def write_looks(folder: SuiteFolder, declared: Declared) -> None:
    write_json(folder.looks, asdict(declared))

"""Names that match a pattern."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from kdbench.errors import UserError, unknown


def matching(names: Iterable[str], pattern: str, what: str) -> list[str]:
    """Raises UserError, with the nearest names, where there is none."""
    names = list(names)
    if found := [name for name in names if fnmatchcase(name.lower(), pattern.lower())]:
        return found
    if any(sign in pattern for sign in "*?["):
        raise UserError(f"no {what} matches {pattern!r}; `kdbench list {what.replace(' ', '')}s` shows all")
    raise UserError(unknown(what, pattern, names))

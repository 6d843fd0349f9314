"""Text from outside (names, labels, reasons) made fit for where it is to stand."""

import re

LEGEND_BEGINS = "**How to read it.**"  # where in a leaderboard its long legend begins

# What Markdown (GitHub's included) takes for markup inside a line: emphasis, code, formulas, cells, links, entities,
# tags. A `_` inside a word or a `[` alone is none, and names of nets are full of them.
_MARKUP = re.compile(r"[*`~$|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])[(\[:]|\\(?=[^A-Za-z0-9\s]|$)")
_ENTITY = re.compile(r"&(?=#?[A-Za-z0-9]+;)")


def harmless(text: str, most: int = 300) -> str:
    """One line that can be written and printed anywhere: cut, without control characters and lone surrogates."""
    line = " ".join(text[: 4 * most].encode("utf-8", "backslashreplace").decode().split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= most and len(text) <= 4 * most else f"{line[: most - 2]} …"


def one_line(text: str) -> str:
    """Every line break and every other control character is a space."""
    return "".join(c if c.isprintable() else " " for c in text)


def inert(text: str) -> str:
    """For Markdown: one line that is shown as it stands. Two different lines stay different."""
    escaped = _MARKUP.sub(lambda match: f"\\{match[0]}", _ENTITY.sub("&amp;", one_line(text)))
    return escaped.replace("<", "&lt;")


def several(count: int, what: str) -> str:
    """`1 cell`, `2 cells`"""
    return f"{count} {what}" + "s" * (count != 1)


def doing(count: int, what: str, verb: str) -> str:
    """`1 student gives`, `2 students give`"""
    return f"{several(count, what)} {verb}" + "s" * (count == 1)

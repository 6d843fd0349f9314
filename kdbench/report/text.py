"""Numbers as people read them, and text from outside as it may stand in a table."""

import math
from typing import Any


def human(value: Any) -> str:
    """1234567 -> 1.23M"""
    if value is None or not math.isfinite(value):
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:g}"


def number(value: Any, digits: int = 2, sign: bool = False) -> str:
    """No minus before what is 0 as it is written. (Ends of intervals keep theirs: it says on which side they are.)"""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+z.{digits}f}" if sign else f"{value:z.{digits}f}"


def chance(p: float) -> str:
    """`= 0.031` or `< 0.001`"""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def duration(seconds: float) -> str:
    """`40 s`, `2.5 min`, `1.2 h`"""
    unit, size = next((u for u in (("h", 3600), ("min", 60)) if seconds >= 1.5 * u[1]), ("s", 1))
    return f"{seconds / size:.3g} {unit}" if math.isfinite(seconds) else "–"


def plus_minus(value: Any, spread: Any) -> str:
    return number(value) if spread is None or not math.isfinite(spread) else f"{value:z.2f} ± {spread:.2f}"

"""Numbers as people write them on the command line."""

import argparse


def processes(text: str) -> int | None:
    return None if text == "auto" else count(text)


def count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def side(text: str) -> int:
    if not 8 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text}: a side of 8 to 1024 pixels")
    return int(text)


def port(text: str) -> int:
    if not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text}: a port of 1 to 65535")
    return int(text)


def parameters(text: str) -> float:
    """`1e6`, `1M`, `500k`, `1.5G`"""
    unit = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}.get(text[-1:].lower())
    return limit(text[:-1] if unit else text, unit or 1, "1M or 500k", text)


def milliseconds(text: str) -> float:
    """`5`, `0.5ms`"""
    return limit(text.lower().removesuffix("ms"), 1, "5 or 0.5", text)


def limit(number: str, unit: float, like: str, text: str) -> float:
    """Raises ArgumentTypeError for what is no number above 0."""
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: a number above 0, like {like}")
    return value


def size(text: str) -> float:
    """Bytes: `100e3`, `1M`, `1MB`, `500 kB`, `1.5GiB` (of 1024)"""
    number = text.strip().lower().removesuffix("b").strip()
    of_1024 = number.endswith("i")
    number = number.removesuffix("i")
    power = max(" kmg".find(number[-1:]), 0) if number else 0
    return limit(number[:-1] if power else number, (1024 if of_1024 else 1000) ** power, "1MB or 500kB", text)


def gigabytes(text: str) -> float:
    size = float(text)
    if not 0 <= size < float("inf"):
        raise ValueError
    return size

"""Importing this registers the data sets of pictures."""

from kdbench.vision import builtin, folder

__all__ = ["builtin", "folder"]

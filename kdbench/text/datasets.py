"""Importing this registers the data sets of texts and the nets that read them."""

from kdbench.text import bilstm, docstrings, folder, glue, nets

__all__ = ["bilstm", "docstrings", "folder", "glue", "nets"]

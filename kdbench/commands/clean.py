"""`kdbench clean`: list what no record needs, or remove it."""

import argparse

from kdbench.commands.given import folder_of
from kdbench.results.clean import clean


def run(given: argparse.Namespace) -> int:
    print(clean(given.results, given.yes, folder_of(given).name if given.suite else None))
    return 0

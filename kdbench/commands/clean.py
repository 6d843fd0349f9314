"""`kdbench clean`: list what no record needs, or remove it."""

import argparse

from kdbench.commands.given import folder_of
from kdbench.errors import UserError
from kdbench.results.clean import clean, share


def run(given: argparse.Namespace) -> int:
    suite = folder_of(given).name if given.suite else None
    if given.share:
        if suite is None:
            raise UserError("--share goes with the suite whose records are meant: kdbench clean SUITE --share")
        print(share(given.results, suite))
    print(clean(given.results, given.yes, suite))
    return 0

"""`kdbench submit`: rows of a suite as one archive that others can judge with `kdbench verify`."""

import argparse
from pathlib import Path

from kdbench.commands.given import options_of
from kdbench.errors import UserError
from kdbench.verify.pack import pack


def run(given: argparse.Namespace) -> int:
    output = given.output or Path(f"{given.suite.stem}-submission.zip")
    if output.exists() and not given.force:
        raise UserError(f"{output} is there already; say --output or --force")
    names = pack(given.suite, given.row, options_of(given), output)
    rows = ", ".join(given.row)
    size = output.stat().st_size / 1e6
    print(f"{output}: {len(names)} files, {size:.1f} MB: suite, code, records, students and teachers of {rows}")
    print(f"What others will find: kdbench verify {output}")
    return 0

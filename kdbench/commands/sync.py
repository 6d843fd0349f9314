"""`kdbench sync`: bring MLflow up to date with the records."""

import argparse
from pathlib import Path

from kdbench.api import make_leaderboard
from kdbench.commands.given import options_of
from kdbench.errors import first_line
from kdbench.layout import Layout
from kdbench.plain import several
from kdbench.results.mlflow_runs import MlflowRuns
from kdbench.results.mlflow_thread import sync
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.suite.load import load_suite


def run(given: argparse.Namespace) -> int:
    options = options_of(given)
    name = load_suite(given.suite, options.plugins).name
    records = Records(options.results, name).read_all()
    folder = Layout(options.results).suite(name)

    def files_of(record: Record) -> list[Path]:
        return folder.files_of(record["key"])

    try:
        written = sync(records, name, options.results, options.uri, files_of)
        text = make_leaderboard(given.suite, options)[1]
        MlflowRuns(name, options.results, options.uri).summary(name, folder.board_files(), text)
    except Exception as error:
        print(f"MLflow ({options.uri}) can't be written: {first_line(error)}")
        return 1
    print(f"{options.uri}: {several(len(records), 'cell')}, {written} written, {len(records) - written} were there")
    return 0

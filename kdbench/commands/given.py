"""What commands read from their arguments."""

import argparse

from kdbench.api import Options
from kdbench.layout import Layout, SuiteFolder
from kdbench.suite.load import read_with_bases


def options_of(given: argparse.Namespace) -> Options:
    only, kept = getattr(given, "only", None), getattr(given, "keep_answers", 0.0)
    jobs = getattr(given, "jobs", 1)
    return Options(given.data, given.results, given.device, only, tuple(given.plugin), given.tracking_uri, kept, jobs)


def folder_of(given: argparse.Namespace) -> SuiteFolder:
    """The folder of the suite's results, by the name that stands in its file."""
    return Layout(given.results).suite(str(read_with_bases(given.suite).data["name"]))

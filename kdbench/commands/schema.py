"""`kdbench schema`: the JSON schema of suite files, for editors."""

import argparse
import json

from kdbench.suite.plugins import load_plugin
from kdbench.suite.schema import schema


def run(given: argparse.Namespace) -> int:
    for path in given.plugin:
        load_plugin(path)
    print(json.dumps(schema(), indent=2))
    return 0

"""`kdbench ui`: MLflow's pages on the right store."""

import argparse
import os
import sys

from kdbench.commands.given import options_of
from kdbench.results.mlflow_runs import TRAINING


def run(given: argparse.Namespace) -> int:
    uri = options_of(given).uri
    if uri.startswith("http"):
        print(f"MLflow is a server: open {uri}")
        return 0
    page = f"http://{given.host}:{given.port}/#/experiments{TRAINING}"
    print(f"MLflow on {uri}\nopen {page}  (Ctrl-C ends it)", flush=True)
    store = ["--backend-store-uri", uri, "--host", given.host, "--port", str(given.port)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # This process becomes the server, so that whoever ends the one ends the other.
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *store], environment)

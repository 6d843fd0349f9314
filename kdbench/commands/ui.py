"""`kdbench ui`: MLflow's pages on the right store."""

import argparse
import errno
import os
import socket
import sys

from kdbench.commands.given import options_of
from kdbench.errors import UserError
from kdbench.results.mlflow_runs import TRAINING


def is_taken(host: str, port: int) -> bool:
    """Does another program listen there? Raises UserError where nobody may."""
    try:
        with socket.create_server((host, port)):
            return False
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise UserError(f"can't listen on port {port} of {host}: {error.strerror or error}") from error


def run(given: argparse.Namespace) -> int:
    uri = options_of(given).uri
    if uri.startswith("http"):
        print(f"MLflow is a server: open {uri}")
        return 0
    if is_taken(given.host, given.port):
        raise UserError(f"port {given.port} of {given.host} is in use by another program; give another --port")
    page = f"http://{given.host}:{given.port}/#/experiments{TRAINING}"
    print(f"MLflow on {uri}\nopen {page}  (Ctrl-C ends it)", flush=True)
    store = ["--backend-store-uri", uri, "--host", given.host, "--port", str(given.port)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # This process becomes the server, so that whoever ends the one ends the other.
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *store], environment)

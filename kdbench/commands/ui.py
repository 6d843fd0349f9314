"""`kdbench ui`: MLflow's pages on the right store."""

import argparse
import errno
import os
import socket
import subprocess
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


ANNOUNCE = """
import socket, sys, time
page, host, port, parent = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
import os
while os.getppid() == parent:
    try:
        socket.create_connection((host, port), timeout=1).close()
        print(f"open {page}", flush=True)
        break
    except OSError:
        time.sleep(0.2)
"""


def announce(page: str, host: str, port: int) -> "subprocess.Popen[bytes]":
    """Say the address as soon as something listens there: a process of its own, that ends then or with the server."""
    where = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    return subprocess.Popen([sys.executable, "-S", "-c", ANNOUNCE, page, where, str(port), str(os.getpid())])


def run(given: argparse.Namespace) -> int:
    uri = options_of(given).uri
    if uri.startswith("http"):
        print(f"MLflow is a server: open {uri}")
        return 0
    if is_taken(given.host, given.port):
        raise UserError(f"port {given.port} of {given.host} is in use by another program; give another --port")
    page = f"http://{given.host}:{given.port}/#/experiments{TRAINING}"
    print(f"MLflow on {uri}: starting; the address is said when it answers (Ctrl-C ends it)", flush=True)
    announce(page, given.host, given.port)
    store = ["--backend-store-uri", uri, "--host", given.host, "--port", str(given.port), "--workers", "1"]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
    # This process becomes the server, so that whoever ends the one ends the other.
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *store], environment)

"""Busy processes beside a measurement, where others will train beside what is measured: they share the caches."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BUSY = """
import sys, threading, os
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
import numpy as np
a = np.ones((512, 512), np.float32)
while True:
    a @ a
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@contextmanager
def company(count: int) -> Iterator[None]:
    """So many of them, with a thread each; they end with the body, or with this process."""
    command = [sys.executable, "-c", BUSY]
    others = [subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, **ONE_THREAD}) for _ in range(count)]
    try:
        yield
    finally:
        for process in others:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

"""Freed memory stays with the process while it trains, and is given back when it is asked how much is free."""

import subprocess
import sys

import pytest

KEEPS = """
import psutil, torch
from kdbench.train.memory import free_memory, keep_freed

mib = lambda: psutil.Process().memory_info().rss / 2**20
if {keep}:
    keep_freed()
before = mib()
torch.ones(200, 2**18).sum()  # 200 MiB
freed = mib()
share = free_memory(torch.device("cpu"))
assert 0 < share < 1
print(freed - before, mib() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_is_kept_until_it_is_counted(keep: bool):
    done = subprocess.run([sys.executable, "-c", KEEPS.format(keep=keep)], capture_output=True, text=True, check=True)
    freed, counted = map(float, done.stdout.split())
    assert (freed > 150) == keep
    assert counted < 50

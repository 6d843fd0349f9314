"""A job holds all that another process needs."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from conftest import TINY

from kdbench.grid.cohort import Place
from kdbench.grid.executors import Job
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite

PLUGIN = '''
import torch
from kdbench import Method, register_method

@register_method("far_away")
class FarAway(Method):
    """A constant."""

    def forward(self, student, teacher, batch):
        return {"far_away": student.logits.square().mean()}
'''
THERE = """
import pickle, sys
job = pickle.loads(open(sys.argv[1], "rb").read())
job.open()
print(job.key, *(cell.key for cell in job.cells))
"""


def test_a_job_goes_to_another_process(suite_file: Callable[..., Path], tmp_path: Path) -> None:
    """It says the same keys there, plugins included."""
    (tmp_path / "far.py").write_text(PLUGIN)
    suite = load_suite(suite_file(plugins=["far.py"], methods={**TINY["methods"], "far": {"ce": 1, "far_away": 1}}))
    cells = tuple(cells_of(suite))
    job = Job(cells, suite.plugins, Place(tmp_path / "results", tmp_path, "cpu"))
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    told = subprocess.run(
        [sys.executable, "-c", THERE, str(tmp_path / "job")], capture_output=True, check=True, text=True
    )
    assert told.stdout.split() == [job.key, *(cell.key for cell in cells)]

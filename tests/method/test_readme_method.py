"""README's example of a method passes the contract that every method of `methods/` passes, as it stands."""

import re
from pathlib import Path

import pytest
import test_methods as contract

from kdbench.method.register import METHODS
from kdbench.suite.plugins import load_plugin

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def _cosine(tmp_path: Path) -> None:
    section = README.split("\n## Add a method\n")[1].split("\n## ")[0]
    block = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert block is not None
    (tmp_path / "cosine.py").write_text(block[1])
    load_plugin(tmp_path / "cosine.py")
    assert "cosine" in METHODS


@pytest.mark.usefixtures("_cosine")
@pytest.mark.parametrize(("teacher", "student"), contract.PAIRS)
def test_the_contract(teacher: str, student: str) -> None:
    contract.test_gradients_reach_the_student_and_every_adapter("cosine", teacher, student)
    contract.test_extremes_are_finite("cosine", teacher, student)
    contract.test_same_seed_same_numbers_and_state("cosine", teacher, student)
    contract.test_verdict_needs_no_values("cosine", teacher, student)

"""README's example of a method passes the contract that every method of `methods/` passes, as it stands."""

from pathlib import Path

import pytest
import test_methods as contract
from documents import readme_block

from kdbench.method.register import METHODS
from kdbench.suite.plugins import load_plugin


@pytest.fixture
def _cosine(tmp_path: Path) -> None:
    (tmp_path / "cosine.py").write_text(readme_block("Add a method", "python"))
    load_plugin(tmp_path / "cosine.py")
    assert "cosine" in METHODS


@pytest.mark.usefixtures("_cosine")
@pytest.mark.parametrize(("teacher", "student"), contract.PAIRS)
def test_the_contract(teacher: str, student: str) -> None:
    contract.test_gradients_reach_the_student_and_every_adapter("cosine", teacher, student)
    contract.test_extremes_are_finite("cosine", teacher, student)
    contract.test_same_seed_same_numbers_and_state("cosine", teacher, student)
    contract.test_verdict_needs_no_values("cosine", teacher, student)

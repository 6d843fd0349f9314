"""A run reads no folder more often for having more cells."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import pytest
from many_cells import measure


@pytest.mark.long
def test_folders_are_not_read_again_for_each_cell(tmp_path, quick_profile):
    (tmp_path / "few").mkdir()
    (tmp_path / "many").mkdir()
    few, many = (measure(tmp_path / name, cohorts, 4, False) for name, cohorts in (("few", 3), ("many", 30)))
    assert many["cells"] == 120
    assert many["folders_read"] <= few["folders_read"] + 5
    assert many["cpu_ms_per_cohort"] < 50  # some 15 by themselves

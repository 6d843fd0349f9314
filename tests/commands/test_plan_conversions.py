"""What a plan says of conversions, which train nothing, and of students that are transformed before they train."""

import re

import torch
from conftest import STUDENT, TEACHER

from kdbench.api import plan
from kdbench.grid.forecast import Stated, seconds_of
from kdbench.grid.probe import net_of, probe


def compressed(suite_file, **changes):
    pruned = STUDENT | {"from": {"label": "student"}, "transforms": [{"prune": {"share": 0.5}}]}
    pairs = [
        {"teacher": TEACHER, "student": STUDENT},
        {"teacher": TEACHER, "student": pruned, "train": {"epochs": 3}},
    ]
    methods = {"student": {"ce": 1}, "int8": {"ce": 1, "then": ["int8"]}}
    return suite_file(pairs=pairs, methods=methods, **changes)


def test_conversions_train_nothing(kdbench, suite_file, tmp_path):
    made = plan(compressed(suite_file), results=tmp_path, device="cpu")
    by_depth = {cohort[0].depth: cohort for cohort in made.cohorts if not all(c.then for c in cohort)}
    conversions = [cohort for cohort in made.cohorts if all(c.then for c in cohort)]
    assert len(conversions) == 2
    assert [seconds_of(cohort, made, Stated(made, 1e12)) for cohort in conversions] == [0, 0]
    full, pruned = (seconds_of(by_depth[depth], made, Stated(made, 1e12)) / (2, 3)[depth] for depth in (0, 1))
    assert 0 < pruned < full  # by the shapes that it will have
    speed = Stated(made, 1e12, cell=0.25)
    assert seconds_of(conversions[0], made, speed) == 12.5  # it is measured as a file, as all of this suite are
    code, out, _ = kdbench("plan", compressed(suite_file))
    assert code == 0
    assert "4 cells, 0 done, 2 to train and 2 to convert in 4 cohorts" in out
    assert len(re.findall(r"1 +– +–", out)) == 2


def test_a_probe_measures_the_nets_that_will_be_trained(suite_file, tmp_path, one_thread):
    made = plan(compressed(suite_file), results=tmp_path, device="cpu")
    pruned = next(cell for cell in made.todo if cell.transforms)
    sizes = [
        sum(p.numel() for p in net_of(spec, pruned, probe(made, torch.device("cpu"), 1e-9)).parameters())
        for spec in (pruned.make, pruned.origin.make)
    ]
    assert sizes[0] < 0.6 * sizes[1]

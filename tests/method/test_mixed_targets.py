"""Every method once with mixed pictures: right, or Inapplicable with its reason.

Right is: it reads no labels; or its loss is linear in them, so that of a mixture is the mixture of its losses; or it
stands in a table below with what it does.
"""

from dataclasses import replace

import pytest
import torch
from test_methods import PAIRS, USUAL, batch, every_method, for_classes, frozen, net, said, task, taught
from torch import Tensor

from kdbench.method.contract import Batch, Blend, Inapplicable
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.seeding import seeded
from kdbench.suite.load import objective
from kdbench.suite.training import Train
from kdbench.train.labels import labelled
from kdbench.train.objective import Objective, blank_outputs, needs_of, student_needs_of

CLASSES, SIZE, _ = USUAL
CPU = torch.device("cpu")
MIXED = Train(augment={"mixup": 1.0})
SHARE = 0.7
OF_MIXING = "pictures that are mixed (mixup, cutmix) have two labels"

# Takes the class of the larger share (`Batch.target`).
LARGER_SHARE = {
    "dkd": "as OFA-KD's code does",
    "ofa": "as the authors' code does",
}
# Reads the mixture, and is not linear in it.
OF_THE_MIXTURE = {
    "wsld": "weighs by cross-entropies, each with the mixture",
    "tfkd": "the hand-made teacher is a softmax of the mixture",
}


def built(name: str, mixed: bool) -> tuple[Objective, str, str]:
    """On the first pair that it applies to. Raises a reason where there is none, of the mixing if that is one."""
    reasons = []
    for teacher, student in PAIRS:
        job = replace(task(CLASSES, SIZE), mixed=mixed)
        made = Objective(objective({name: 1.0}))
        try:
            blank = [blank_outputs(net(student, CLASSES), student_needs_of([name]), job, CPU),
                     blank_outputs(frozen(teacher, CLASSES), needs_of([name]), job, CPU)]  # fmt: skip
            made.build(*blank, job, 0)
        except Inapplicable as why:
            reasons.append(why)
            continue
        return made.train(), teacher, student
    raise next((reason for reason in reasons if OF_MIXING in str(reason)), reasons[0])


def loss(made: Objective, teacher: str, student: str, given: Batch) -> Tensor:
    name = next(made.terms()).name
    outputs = said(student, student_needs_of([name]), *USUAL), taught(teacher, needs_of([name]), *USUAL)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    with seeded("step"), torch.no_grad():
        *sums, _ = made(*outputs, given)
    made.load_state_dict(before)
    return torch.stack(sums).sum()


def given(target: Tensor, share: float | None = None) -> Batch:
    plain = batch(CLASSES, SIZE)
    blend = None if share is None else Blend(torch.arange(SIZE - 1, -1, -1), torch.full((SIZE,), share))
    return labelled(replace(plain, target=target, blend=blend), MIXED, CLASSES)


@every_method
def test_mixed_targets(name: str) -> None:
    try:
        made, *pair = built(name, mixed=True)
    except Inapplicable as found:
        reason = str(found)
        built(name, mixed=False)  # it is the mixing alone that ends it
    else:
        reason = ""
    if reason:
        assert OF_MIXING in reason
        return
    if is_rule(METHODS[name]):
        return
    target = batch(CLASSES, SIZE).target
    mixed = loss(made, *pair, given(target, SHARE))
    own, partner = loss(made, *pair, given(target)), loss(made, *pair, given(target.flip(0)))
    assert mixed.isfinite()
    others = loss(made, *pair, given((target + 1) % CLASSES, SHARE))
    if mixed.equal(own) and mixed.equal(others):
        return  # it reads no labels
    if name in LARGER_SHARE:
        assert mixed.equal(own)
        assert loss(made, *pair, given(target, 1 - SHARE)).equal(partner)
    elif name in OF_THE_MIXTURE:
        whole = loss(made, *pair, replace(given(target, 1.0), blend=None))
        torch.testing.assert_close(whole, own)
        assert not mixed.equal(own)
    else:
        torch.testing.assert_close(mixed, SHARE * own + (1 - SHARE) * partner, rtol=1e-4, atol=1e-6)
        assert not torch.isclose(mixed, own)


def test_exceptions_are_registered_and_apply() -> None:
    for name in (*LARGER_SHARE, *OF_THE_MIXTURE):
        assert built(name, mixed=True)


def test_who_takes_no_mixed_pictures() -> None:
    found = set()
    for name in for_classes():
        try:
            built(name, mixed=True)
        except Inapplicable:
            found.add(name)
    assert found == {"crd", "nd", "nkd", "rld", "sdd", "swap_kd", "wkd_l", "wkd_l_maps"}


@pytest.mark.parametrize("name", ["dkd", "nkd", "crd", "ofa"])
def test_labels_that_are_only_smoothed_end_no_method(name: str) -> None:
    made, *pair = built(name, mixed=False)
    target = batch(CLASSES, SIZE).target
    plain = replace(batch(CLASSES, SIZE), target=target)
    smooth = labelled(plain, Train(label_smoothing=0.1), CLASSES)
    assert smooth.soft is not None
    assert loss(made, *pair, smooth).equal(loss(made, *pair, plain))

"""Labels of mixed pictures and smoothed labels, against hand-worked numbers; and what a control makes of them."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdbench.data import Splits, load_splits
from kdbench.method.contract import Batch, Blend, Outputs
from kdbench.method.register import METHODS
from kdbench.suite.controls import shuffled
from kdbench.suite.training import Train
from kdbench.train.labels import labelled
from kdbench.train.loop import Cohort, epoch_of
from kdbench.train.start import training_task

NOTHING = Outputs(torch.zeros(3, 0))
SMOOTH, MIXED = Train(label_smoothing=0.3), Train(augment={"mixup": 0.8})
BOTH = Train(label_smoothing=0.3, augment={"cutmix": 1.0})


def batch(share: float | None = None) -> Batch:
    """Classes 0, 1, 2 of 3; the first and the last picture are mixed, the middle one with itself."""
    blend = None if share is None else Blend(torch.tensor([2, 1, 0]), torch.full((3,), share))
    return Batch(torch.zeros(3, 3, 2, 2), torch.arange(3), torch.arange(3), blend=blend)


def test_nothing_is_done_where_nothing_is_asked() -> None:
    one = batch()
    assert labelled(one, Train(), 3) is one
    assert one.labels is one.target


def test_labels_by_hand() -> None:
    mixed = labelled(batch(0.75), MIXED, 3)
    assert mixed.soft is not None
    assert mixed.soft.tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]
    assert mixed.target.tolist() == [0, 1, 2]
    small = labelled(batch(0.4), MIXED, 3)
    assert small.target.tolist() == [2, 1, 0]  # the class of the larger share
    assert labelled(batch(0.5), MIXED, 3).target.tolist() == [0, 1, 2]
    smooth = labelled(batch(), SMOOTH, 3)
    assert smooth.soft is not None
    assert smooth.soft[0].tolist() == pytest.approx([0.8, 0.1, 0.1])
    both = labelled(batch(0.75), BOTH, 3)
    assert both.soft is not None
    assert both.soft[0].tolist() == pytest.approx([0.7 * 0.75 + 0.1, 0.1, 0.7 * 0.25 + 0.1])


def ce(logits: torch.Tensor, given: Batch, **settings: float) -> float:
    return float(METHODS["ce"](**settings)(Outputs(logits), NOTHING, given)["ce"])


def test_cross_entropy_with_mixed_labels_by_hand() -> None:
    """Logits log 1, log 2, log 5: probabilities 1/8, 2/8, 5/8."""
    logits = torch.tensor([1.0, 2.0, 5.0]).log().expand(3, 3)
    rows = [math.log(8) - 0.25 * math.log(5), math.log(8) - math.log(2), math.log(8) - 0.75 * math.log(5)]
    assert ce(logits, labelled(batch(0.75), MIXED, 3)) == pytest.approx(sum(rows) / 3)
    smoothed = [math.log(8) - 0.1 * (math.log(2) + math.log(5)) - 0.7 * part for part in
                (0.0, math.log(2), math.log(5))]  # fmt: skip
    assert ce(logits, labelled(batch(), SMOOTH, 3)) == pytest.approx(sum(smoothed) / 3)


def test_binary_cross_entropy_by_hand() -> None:
    """Logits 0, log 3 and -log 3: probabilities 1/2, 3/4 and 1/4; the mean over 3 pictures and 3 classes."""
    logits = torch.tensor([0.0, math.log(3), -math.log(3)]).expand(3, 3)
    yes, no = [1 / 2, 3 / 4, 1 / 4], [1 / 2, 1 / 4, 3 / 4]

    def by_hand(rows: list[list[float]]) -> float:
        parts = [y * math.log(a) + (1 - y) * math.log(b) for row in rows for y, a, b in zip(row, yes, no, strict=True)]
        return -sum(parts) / 9

    hard = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    assert ce(logits, batch(), binary=True) == pytest.approx(by_hand(hard))
    mixed = labelled(batch(0.75), MIXED, 3)
    assert ce(logits, mixed, binary=True) == pytest.approx(by_hand([[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]]))
    assert ce(logits, mixed, binary=True, threshold=0.2) == pytest.approx(by_hand([[1, 0, 1], [0, 1, 0], [1, 0, 1]]))
    smooth = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
    assert ce(logits, batch(), binary=True, label_smoothing=0.3) == pytest.approx(by_hand(smooth))
    assert ce(logits, labelled(batch(), SMOOTH, 3), binary=True) == pytest.approx(by_hand(smooth))


def test_the_recipe_s_smoothing_is_that_of_cross_entropy() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    by_recipe = ce(logits, labelled(batch(), SMOOTH, 3))
    assert by_recipe == pytest.approx(ce(logits, batch(), label_smoothing=0.3))
    assert by_recipe == pytest.approx(float(F.cross_entropy(logits, torch.arange(3), label_smoothing=0.3)))


def test_a_method_is_told_that_pictures_are_mixed(tmp_path: object) -> None:
    splits = load_splits("digits", {"size": 8}, tmp_path)
    asked = [training_task(splits.task, how, splits.train.targets).mixed for how in (Train(), SMOOTH, MIXED, BOTH)]
    assert asked == [False, False, True, True]


def test_the_loop_hands_out_labelled_batches_also_of_a_control(tmp_path: object) -> None:
    """A teacher that learns shuffled labels learns them mixed: never the true ones."""
    splits = load_splits("digits", {"size": 8}, tmp_path)
    other = Splits(shuffled(splits.train, 0), splits.test, 10)
    how = Train(augment={"mixup": 0.8}, batch_size=100).batches
    for data in (splits, other):
        for given in list(epoch_of(Cohort(None, data, how, 0), 0, 0, ()))[:3]:
            assert given.soft is not None
            assert given.blend is not None
            own, partner = data.train.targets[given.index], data.train.targets[given.index[given.blend.partner]]
            share = given.blend.share[:, None]
            torch.testing.assert_close(given.soft, share * F.one_hot(own, 10) + (1 - share) * F.one_hot(partner, 10))
            assert torch.equal(given.target, torch.where(given.blend.share >= 0.5, own, partner))

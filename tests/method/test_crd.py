"""CRD's negatives: pictures of other classes, none twice before all came once, each as likely as any other."""

import torch

from kdbench.method.contract import Batch, Outputs, Task
from kdbench.method.register import METHODS

NUM_CLASSES, PICTURES = 5, 600


def draw(negatives: int, batch_size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The labels of all pictures, the batch's places and what was drawn for them, with classes of unequal sizes."""
    torch.manual_seed(0)
    label = (NUM_CLASSES * torch.rand(PICTURES) ** 2).long()
    blank = Outputs(torch.zeros(2, NUM_CLASSES), embedding=torch.zeros(2, 8))
    method = METHODS["crd"](negatives=negatives)
    method.build(blank, blank, Task(NUM_CLASSES, PICTURES, (3, 8, 8), targets=label))
    index = torch.randint(PICTURES, (batch_size,))
    places = method.draw(Batch(torch.zeros(batch_size, 3, 8, 8), label[index], index, 0.5))
    assert places.shape == (batch_size, 1 + negatives)
    assert places[:, 0].equal(index)
    return label, index, places[:, 1:]


def test_negatives_are_others_and_differ():
    label, index, places = draw(negatives=200)
    assert (label[places] != label[index][:, None]).all()
    assert all(len(row.unique()) == len(row) for row in places)
    assert len({tuple(row.sort().values.tolist()) for row in places}) == len(places)


def test_more_negatives_than_others_come_round_again():
    label, index, places = draw(negatives=2000)
    for row, own in zip(places, label[index], strict=True):
        times = row.bincount(minlength=PICTURES)
        assert (times[label == own] == 0).all()
        assert times[label != own].max() - times[label != own].min() <= 1


def test_every_other_picture_is_as_likely():
    label, index, places = draw(negatives=20, batch_size=20_000)
    rows = label[index] == 0
    times = places[rows].flatten().bincount(minlength=PICTURES)[label != 0].double()
    # 20 of about 330 pictures in about 9,000 rows: 540 times each, give or take 22.5 if they were independent.
    assert (times - times.mean()).abs().max() < 6 * times.mean().sqrt()

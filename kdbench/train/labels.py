"""What the labels of a batch are where its inputs are mixed or its labels smoothed."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from kdbench.method.contract import Batch, Inapplicable
from kdbench.method.kinds import NUMBERS, kind_of
from kdbench.suite.training import Batches


def labelled(batch: Batch, how: Batches, num_classes: int) -> Batch:
    """With `soft` [B, K]: the labels mixed as the inputs are, and (1 - e) of that plus e / K for smoothing by e.

    `target` is then the class of the larger share, the picture's own at a tie. Raises Inapplicable for numbers.
    """
    if batch.blend is None and how.label_smoothing is None:
        return batch
    if kind_of(batch.target) is NUMBERS:
        raise Inapplicable("labels that are smoothed or mixed are classes; these data have numbers")
    target, known = batch.target, batch.target >= 0
    soft = F.one_hot(target.clamp(min=0), num_classes).float() * known[:, None]  # of an example without a label all 0
    if batch.blend is not None:
        partner, share = batch.blend.partner, batch.blend.share
        soft = share[:, None] * soft + (1 - share)[:, None] * soft[partner]
        target = torch.where(share >= 0.5, target, target[partner])
    if how.label_smoothing is not None:
        soft = soft * (1 - how.label_smoothing) + how.label_smoothing / num_classes
    return replace(batch, soft=soft, target=target)

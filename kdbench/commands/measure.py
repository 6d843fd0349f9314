"""At which size pictures can be measured in the time there is."""

import time
from collections.abc import Sequence

import torch

from kdbench.nets import build_net
from kdbench.suite.spec import ModelSpec
from kdbench.vision.batches import picture_task

FEW = 4  # pictures
STEPS = 8  # of so few at least, each three forwards, that measuring a net takes


def affordable(teacher: ModelSpec, classes: int, sizes: Sequence[int], device: torch.device, limit: float) -> int:
    """The largest of `sizes` (sides in pixels) at which measuring the teacher takes less than `limit` seconds.

    The smallest where none does. A few pictures of the smallest size tell; others cost as their area.
    """
    smallest = min(sizes)
    task = picture_task(classes, smallest)
    net = build_net(teacher, task, "teacher", 0).to(device).train()
    inputs = task.inputs.random(FEW).to(device)  # type: ignore[union-attr]
    for _ in range(2):
        start = time.monotonic()
        net(inputs).logits.sum().item()
        forward = time.monotonic() - start
    return max([size for size in sizes if 3 * STEPS * forward * (size / smallest) ** 2 <= limit], default=smallest)

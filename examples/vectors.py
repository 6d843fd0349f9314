"""Another domain in one file: vectors of numbers, with a data set and a net of their own.

    kdbench run examples/vectors.yaml

Everything else (pairs, methods, seeds, records, leaderboard, export) is the engine's, which knows no domain.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from kdbench import InMemory, Splits, Task, register_dataset, register_net


@register_dataset("tumours")
def tumours(data_dir: Path, test_share: float = 0.3) -> Splits:
    """scikit-learn's 569 tumours, 30 measurements each, benign or malignant: a fixed, stratified split.

    Each measurement has mean 0 and standard deviation 1 over the training set.
    """
    data = load_breast_cancer()
    split = {"test_size": test_share, "stratify": data.target, "random_state": 0}
    train_x, test_x, train_y, test_y = train_test_split(data.data, data.target, **split)
    mean, std = train_x.mean(0), train_x.std(0)
    train, test = in_memory((train_x - mean) / std, train_y), in_memory((test_x - mean) / std, test_y)
    return Splits(train, test, num_classes=2, classes=tuple(map(str, data.target_names)))


def in_memory(values: Any, targets: Any) -> InMemory:
    """[N, D] numbers and [N] labels, as they lie on the device."""
    return InMemory(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(targets.astype(np.int64)))


@register_net("mlp")
class MLP(nn.Module):
    """Linear layers with ReLU: [B, D] -> logits [B, K].

    The engine finds the embedding by itself: it is what the last linear layer reads.
    """

    def __init__(self, task: Task, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        widths = [task.inputs.shape[0], *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, task.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

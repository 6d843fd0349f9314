"""Correlations of ratings, against NumPy and cases worked by hand."""

import numpy as np
import pytest
import torch

from kdbench.method.metric import METRICS

PREDICTED, TRUE = [0, 1, 2, 2, 4, 1, 0, 3], [0, 2, 2, 3, 4, 1, 1, 5]


def score(name: str, predicted: list[int], true: list[int]) -> float:
    of = METRICS[name].of
    assert of is not None
    return of(torch.tensor(predicted), torch.tensor(true))


def test_pearson_is_numpy_s() -> None:
    assert score("pearson", PREDICTED, TRUE) == pytest.approx(100 * np.corrcoef(PREDICTED, TRUE)[0, 1], rel=1e-12)


def test_spearman_is_pearson_of_the_ranks() -> None:
    ranks = [1.5, 3.5, 5.5, 5.5, 8, 3.5, 1.5, 7], [1, 4.5, 4.5, 6, 7, 2.5, 2.5, 8]  # by hand
    assert score("spearman", PREDICTED, TRUE) == pytest.approx(100 * np.corrcoef(*ranks)[0, 1], rel=1e-12)
    assert score("spearman", [0, 1, 2], [0, 1, 5]) == pytest.approx(100)
    assert score("pearson", [0, 1, 2], [0, 1, 5]) < 95


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_one_class_for_all_is_worth_nothing(name: str) -> None:
    assert score(name, [2, 2, 2], [0, 1, 2]) == 0
    assert score(name, [2, 1, 0], [0, 1, 2]) == pytest.approx(-100)

"""Correlations of ratings, against NumPy and cases worked by hand."""

import numpy as np
import pytest
import torch

from kdbench.data import InMemory, Splits
from kdbench.errors import UserError
from kdbench.method.metric import METRICS, metric_for, metric_of, rating

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


def rated(name: str, classes: tuple[str, ...], predicted: list[int], true: list[int]) -> float:
    of = metric_for(name, classes, len(classes)).of
    assert of is not None
    return of(torch.tensor(predicted), torch.tensor(true))


def test_ratings_are_worth_what_their_names_say() -> None:
    names = ("1", "2", "100")
    predicted, true = [0, 1, 2, 0, 1], [0, 2, 2, 1, 0]
    values = np.array([1.0, 2.0, 100.0])
    wanted = 100 * np.corrcoef(values[predicted], values[true])[0, 1]
    assert rated("pearson", names, predicted, true) == pytest.approx(wanted, rel=1e-12)
    assert abs(wanted - score("pearson", predicted, true)) > 1, "which the classes' numbers would not give"
    turned = tuple(reversed(names))  # classes in an order of the user's own
    again = [2 - k for k in predicted], [2 - k for k in true]
    assert rated("pearson", turned, *again) == pytest.approx(wanted, rel=1e-12)
    ranks = rated("spearman", ("10.0", "9.5", "-1"), [0, 1, 2], [0, 1, 2]), rated("spearman", names, [0, 1], [1, 0])
    assert ranks == pytest.approx((100, -100))


@pytest.mark.parametrize(
    ("name", "classes", "text"),
    [
        ("pearson", ("1", "good"), r"of classes that are numbers \(ratings\); 'good' is none"),
        ("spearman", ("1", "nan"), "'nan' is none"),
        ("f1", ("a", "b", "c"), "f1 is of one class of two; here are 3: macro_f1 is the mean of all"),
    ],
)
def test_what_a_metric_can_t_be_of_is_told(name: str, classes: tuple[str, ...], text: str) -> None:
    values = InMemory(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(UserError, match=text):
        Splits(values, values, len(classes), classes=classes, metric=name)


def test_f1_says_which_class_it_counts() -> None:
    assert metric_for("f1", ("fraud", "ok"), 2).words == "F1 of class 'ok'"
    record = {"metric": "f1", "classes": ["ok", "fraud"], "num_classes": 2}
    assert metric_of(record).words == "F1 of class 'fraud'"
    assert metric_of({"metric": "f1", "num_classes": 3}) == METRICS["f1"], "a record of before is read all the same"


def test_ratings_are_finite_numbers() -> None:
    assert [str(rating(text)) for text in ("10.0", "-1.5", "3", "--1", "inf", "nan", "x")] == [
        "10.0", "-1.5", "3", *["None"] * 4
    ]  # fmt: skip

"""Which layer meets which: by the student's place, from the deep end."""

import pytest
import torch

from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.method.stages import Pairs, pair_layers, pair_stages
from kdbench.suite.plugins import load_methods

load_methods()


def maps(count: int) -> list[torch.Tensor]:
    return [torch.zeros(2, 5, 4)] * count


def layers(student: int, teacher: int, chosen: tuple[int | float, ...] | None = None) -> Pairs:
    """From 1, as papers count."""
    return [(s + 1, t + 1) for s, t in pair_layers(maps(student), maps(teacher), chosen, "layers")]


@pytest.mark.parametrize(("student", "teacher"), [(6, 12), (4, 12), (3, 12), (2, 4), (2, 12), (12, 24), (5, 5), (1, 7)])
def test_all_layers_are_tinybert_s_uniform_mapping(student: int, teacher: int) -> None:
    assert layers(student, teacher) == [(m, m * teacher // student) for m in range(1, student + 1)]


def test_a_fraction_is_the_student_s_depth_and_the_teacher_s_follows() -> None:
    quarters = (0.25, 0.5, 0.75, 1.0)
    assert layers(6, 12, quarters) == [(2, 4), (3, 6), (5, 10), (6, 12)]
    assert layers(3, 12, quarters) == [(1, 4), (2, 8), (3, 12)], "no pair stands twice"
    assert layers(2, 4, quarters) == [(1, 2), (2, 4)]
    assert layers(12, 12, quarters) == [(3, 3), (6, 6), (9, 9), (12, 12)]
    assert len(pair_stages(maps(3), maps(3), quarters)) == 4, "a method that wants four branches has four"


@pytest.mark.parametrize("name", ["hidden", "attention_scores"])
def test_tinybert_s_methods_read_every_layer_of_the_student(name: str) -> None:
    made = METHODS[name]()

    def net(count: int) -> Outputs:
        heads = tuple([torch.zeros(2, 2, 5, 4)] * count)
        return Outputs(torch.zeros(2, 3), features=tuple(maps(count)), queries=heads, keys=heads)

    made.build(net(6), net(12), Task(3, 8, None))
    assert made.pairs == [(m, 2 * m + 1) for m in range(6)]
    with pytest.raises(Inapplicable, match="needs"):
        METHODS[name]().build(Outputs(torch.zeros(2, 3)), net(12), Task(3, 8, None))

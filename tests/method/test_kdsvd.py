"""KDSVD's gradient steps around an SVD's: here it is held against differences of the value, in double precision."""

import pytest
import torch
from torch import Tensor

from kdbench.method.contract import Batch, Outputs
from kdbench.method.register import METHODS
from kdbench.vision.batches import picture_task

B = 2
TASK = picture_task(10, 8)
BATCH = Batch(torch.zeros(B, 3, 8, 8), torch.zeros(B, dtype=torch.int64), torch.arange(B))


def maps(*shapes: tuple[int, int], seed: int, dead: int = 0) -> tuple[Tensor, ...]:
    """Maps after a ReLU, [B, C, side, side]; `dead` channels never fire: singular values of 0."""
    draw = torch.Generator().manual_seed(seed)
    found = [torch.randn(B, c, side, side, generator=draw, dtype=torch.float64).relu() for c, side in shapes]
    return tuple(torch.cat([x[:, : x.shape[1] - dead], torch.zeros_like(x[:, :dead])], 1) for x in found)


CASES = {
    "more positions than channels": ((8, 8), (16, 8), (16, 8)),
    "more channels than positions": ((12, 3), (24, 3), (32, 2)),
}


@pytest.mark.parametrize("dead", [0, 3])
@pytest.mark.parametrize("matrix", ["channels", "rows"])
@pytest.mark.parametrize("shapes", CASES.values(), ids=CASES)
@pytest.mark.parametrize("k", [1, 2])
def test_gradient_in_double_precision(shapes: tuple[tuple[int, int], ...], matrix: str, dead: int, k: int) -> None:
    student, teacher = maps(*shapes, seed=0, dead=dead), maps(*shapes, seed=1)
    method = METHODS["kdsvd"](k=k, matrix=matrix)
    said, taught = (Outputs(torch.zeros(B, 10), features=x) for x in (student, teacher))
    method.build(said, taught, TASK)

    def value(features: tuple[Tensor, ...]) -> Tensor:
        return method(Outputs(torch.zeros(B, 10), features=features), taught, BATCH)["kdsvd"]

    leaves = [x.clone().requires_grad_() for x in student]
    gradients = torch.autograd.grad(value(tuple(leaves)), leaves)
    draw = torch.Generator().manual_seed(2)
    for place, gradient in enumerate(gradients):
        # Along directions that keep a dead channel dead: beside them the value has a kink.
        steps = torch.randn(1, *gradient.shape, generator=draw, dtype=torch.float64) * (student[place] != 0)
        for step in steps:
            up, down = (
                value(tuple(x + h * step if i == place else x for i, x in enumerate(student))) for h in (1e-6, -1e-6)
            )
            slope = ((up - down) / 2e-6).item()
            scale = gradient.norm().item() * step.norm().item()
            assert abs((gradient * step).sum().item() - slope) <= 1e-6 * max(abs(slope), 1e-2 * scale)

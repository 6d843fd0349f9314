"""Does a loss teach the student anything? Followed through autograd's graph, without computing a gradient."""

from collections.abc import Iterable, Set
from typing import Any

from torch import Tensor


class TeachesNothing(Exception):
    """No loss of a method depends on a weight of the student."""

    def __init__(self, methods: Iterable[str], epoch: int) -> None:
        what = f"in no step of epoch {epoch} did its loss reach a weight of the student (is something detached?)"
        super().__init__(f"{', '.join(methods)}: {what}")


def reaches(loss: Any, params: Set[Tensor]) -> bool:
    """Is one of `params` among what `loss` was computed from?"""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return False
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) in params:  # only the nodes of leaves have one
            return True
        left += [following for following, _ in node.next_functions]
    return False

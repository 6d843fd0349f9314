"""The cases of `tests/golden/added/`: of methods' authors, by `python -m kdbench.golden`."""

from torch import Tensor

from . import Golden, golden


@golden("abkd")
def abkd(g: Golden) -> Tensor:
    return g.value("abkd", g.outputs("s"), g.outputs("t"), **g.hyper)

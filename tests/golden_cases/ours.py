"""The cases of ours.json: itrd at equal widths, dml, dot, deit, hidden, function_matching, fixed_teacher."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from kdbench.method.contract import Outputs
from kdbench.method.register import METHODS

from . import Golden, golden


@golden("itrd_equal")
def itrd_equal(g: Golden) -> Tensor:
    s, t = g.outputs("s", embedding="s_embed"), g.outputs("t", embedding="t_embed_same")
    method = g.method("itrd", s, t, **g.hyper)
    with torch.no_grad():
        method.adapter.weight.copy_(g.array("srd_w")[:64])
        method.adapter.bias.copy_(g.array("srd_b")[:64])
    return g.run(method, s, t)


@golden("dml")
def dml(g: Golden) -> Tensor:
    s = replace(g.outputs("s"), views={"peer": Outputs(g.array("s_logits2"))})
    return g.value("dml", s, g.outputs("t"))


@golden("deit_hard", "deit_soft")
def deit(g: Golden) -> Tensor:
    return g.value("deit", g.outputs("s", token_logits="s_logits2"), g.outputs("t"), **g.hyper)


@golden("hidden")
def hidden(g: Golden) -> Tensor:
    s, t = (g.outputs(side, features=tuple(f"{side}_feat{i}" for i in range(3))) for side in ("s", "t"))
    method = g.method("hidden", s, t, layers=tuple(g.hyper["layers"]))
    for i, project in enumerate(method.project):
        g.set(project, weight=f"adapt{i}_w")
    return g.run(method, s, t)


@golden("function_matching")
def function_matching(g: Golden) -> Tensor:
    s, t = (replace(g.outputs(x), views={"mixed": Outputs(g.array(f"{x}_logits2"))}) for x in ("s", "t"))
    return g.value("function_matching", s, t, **g.hyper)


@golden("fixed_teacher")
def fixed_teacher(g: Golden) -> Tensor:
    t = replace(g.outputs("t"), views={"plain": Outputs(g.array("t_logits2"))})
    return g.value("fixed_teacher", g.outputs("s"), t, **g.hyper)


@golden("dot")
def dot(g: Golden) -> Tensor:
    """The rule and SGD together, as the engine runs them."""
    rule = METHODS["dot"](delta=g.hyper["delta"])
    parameter = nn.Parameter(g.array("s_logits2").detach().clone())
    settings = {name: g.hyper[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD([parameter], **settings)
    for step in range(g.hyper["steps"]):
        of_task, of_teacher = g.array("s_logits") * (step + 1), g.array("t_logits") / (step + 1)
        [parameter.grad] = rule.combine([parameter], [of_task], [of_teacher], optimizer)
        optimizer.step()
    places = torch.arange(parameter.numel(), dtype=torch.float64).cos().to(parameter.dtype)
    return parameter.detach().flatten() @ places

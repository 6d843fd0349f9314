"""nst, fsp, ab, ft, kdsvd, vid, ofd, reviewkd, ickd, semckd, simkd, mgd, cwd, pkd."""

from dataclasses import replace

import torch
from torch import Tensor

from kdbench.method.contract import Outputs
from kdbench.methods.reviewkd import hcl

from . import Golden, golden

ALL = (-3, -2, -1)


def sides(g: Golden, s: tuple[str, ...], t: tuple[str, ...], part: str = "features") -> tuple[Outputs, Outputs]:
    return g.outputs("s", **{part: s}), g.outputs("t", **{part: t})


def stages(g: Golden, s: str, t: str, part: str = "features") -> tuple[Outputs, Outputs]:
    return sides(g, tuple(f"{s}{i}" for i in range(3)), tuple(f"{t}{i}" for i in range(3)), part)


@golden("nst")
def nst(g: Golden) -> Tensor:
    return g.value("nst", *stages(g, "s_feat", "t_feat"))


@golden("nst_pooled")
def nst_pooled(g: Golden) -> Tensor:
    return g.value("nst", *sides(g, ("s_feat2",), ("t_feat1",)), stages=(-1,))


@golden("fsp")
def fsp(g: Golden) -> Tensor:
    return g.value("fsp", *stages(g, "s_feat", "t_feat_same"), stages=ALL)


@golden("fsp_torchdistill")
def fsp_torchdistill(g: Golden) -> Tensor:
    s, t = stages(g, "s_feat", "t_feat_same")
    s = s.map(lambda x: x.detach().requires_grad_())  # the case gives no gradient (ties in the max-pool); there is one
    return g.value("fsp", s, t, stages=ALL, form="norm")


@golden("ab")
def ab(g: Golden) -> Tensor:
    return g.value("ab", *stages(g, "s_pre", "t_pre_same", "preacts"), margin=g.hyper["margin"])


@golden("ab_zoo")
def ab_zoo(g: Golden) -> Tensor:
    s, t = sides(g, ("s_pre1",), ("t_pre_same1",), "preacts")
    return g.value("ab", s, t, margin=g.hyper["margin"], stages=(-1,), form="mean")


@golden("ft")
def ft(g: Golden) -> Tensor:
    return g.value("ft", *sides(g, ("s_feat2",), ("t_feat2",)), p1=g.hyper["p1"], p2=g.hyper["p2"], factors="maps")


@golden("ft_paper")
def ft_paper(g: Golden) -> Tensor:
    return g.value("ft", *sides(g, ("s_feat2",), ("t_feat_same2",)), form="paper", factors="maps")


@golden("kdsvd")
def kdsvd(g: Golden) -> Tensor:
    return g.value("kdsvd", *stages(g, "s_feat", "t_feat_same"), k=g.hyper["k"])


@golden("kdsvd_mdistiller")
def kdsvd_mdistiller(g: Golden) -> Tensor:
    return g.value("kdsvd", *stages(g, "s_feat", "t_feat"), k=g.hyper["k"], matrix="rows")


@golden("vid", "vid_fixed_var")
def vid(g: Golden) -> Tensor:
    s, t = sides(g, ("s_feat1",), ("t_feat1",))
    fixed = {"initial_var": g.hyper["var"], "fixed_var": True} if "var" in g.hyper else {}
    method = g.method("vid", s, t, stages=(-1,), eps=g.hyper["eps"], **fixed)
    for i in range(3):
        g.set(method.predictors[0][2 * i], weight=f"vid_w{i}")
    if not fixed:
        with torch.no_grad():
            method.log_scales[0].copy_(g.array("vid_log_scale"))
    return g.run(method, s, t)


@golden("ofd", "ofd_original")
def ofd(g: Golden) -> Tensor:
    s, t = stages(g, "s_pre", "t_pre", "preacts")
    t = replace(t, norms=tuple(torch.stack(g.arrays(f"ofd_bn_w{i}", f"ofd_bn_b{i}")) for i in range(3)))
    method = g.method("ofd", s, t)
    for i, connector in enumerate(method.connectors):
        g.set(connector.conv, weight=f"adapt{i}_w")
        g.set(connector.bn, weight=f"adapt{i}_bn_w", bias=f"adapt{i}_bn_b")
    return g.run(method, s, t)


@golden("reviewkd_hcl")
def reviewkd_hcl(g: Golden) -> Tensor:
    s, t = stages(g, "s_feat", "t_feat_same")
    return torch.stack([hcl(*maps) for maps in zip(s.features, t.features, strict=True)]).sum()


@golden("reviewkd_full")
def reviewkd_full(g: Golden) -> Tensor:
    s = g.outputs("s", features=("s_feat0", "s_feat1", "s_feat2"), embedding="s_embed")
    t = g.outputs("t", preacts=("t_pre0", "t_pre1", "t_pre2"), embedding="t_embed")
    method = g.method("reviewkd", s, t)
    for i, fusion in enumerate(method.fusions):
        for number, part in ((1, fusion.enter), (2, fusion.leave)):
            g.set(part.conv, weight=f"abf{i}_c{number}_w")
            g.set(part.bn, weight=f"abf{i}_bn{number}_w", bias=f"abf{i}_bn{number}_b")
        if i < 3:
            g.set(fusion.attend, weight=f"abf{i}_att_w", bias=f"abf{i}_att_b")
    return g.run(method, s, t)


@golden("ickd")
def ickd(g: Golden) -> Tensor:
    s, t = sides(g, ("s_feat1",), ("t_feat1",))
    method = g.method("ickd", s, t)
    g.set(method.adapter.conv, weight="adapt1_w")
    g.set(method.adapter.bn, weight="adapt1_bn_w", bias="adapt1_bn_b")
    return g.run(method, s, t)


@golden("ickd_torchdistill")
def ickd_torchdistill(g: Golden) -> Tensor:
    return g.value("ickd", *sides(g, ("s_feat1",), ("t_feat_same1",)), adapter="none", form="torchdistill")


@golden("semckd")
def semckd(g: Golden) -> Tensor:
    s, t = stages(g, "s_feat", "t_feat")
    width = len(g.array("s_logits"))
    method = g.method("semckd", s, t, g.task(batch_size=width), soft=g.hyper["soft"], regressor="linear")
    for i in range(3):
        for letter, nets in (("q", method.queries), ("k", method.keys)):
            g.set(nets[i][0], weight=f"sem_{letter}{i}_w1", bias=f"sem_{letter}{i}_b1")
            g.set(nets[i][2], weight=f"sem_{letter}{i}_w2", bias=f"sem_{letter}{i}_b2")
        for j in range(3):
            g.set(method.regressors[f"{i}-{j}"], weight=f"sem_p{i}{j}_w")
    return g.run(method, s, t)


@golden("simkd")
def simkd(g: Golden) -> Tensor:
    s, t = g.outputs("s", features=("s_feat2",)), g.outputs("t", pooled_map="t_feat2")
    t = replace(t, classifier=g.arrays("cls_t_w", "cls_t_b"), embedding=t.pooled_map.mean((2, 3)))
    method = g.method("simkd", s, t, factor=g.hyper["factor"])
    for i, part in enumerate(method.adapter, 1):
        g.set(part.conv, weight=f"simkd_w{i}")
        g.set(part.bn, weight=f"simkd_bn{i}_w", bias=f"simkd_bn{i}_b")
    return g.run(method, s, t)


@golden("mgd")
def mgd(g: Golden) -> Tensor:
    s, t = sides(g, ("s_feat0",), ("t_feat0",))
    method = g.method("mgd", s, t, masked=g.hyper["lam"])
    g.set(method.align, weight="adapt0_w", bias="adapt0_b")
    g.set(method.generate[0], weight="mgd_g1_w", bias="mgd_g1_b")
    g.set(method.generate[2], weight="mgd_g2_w", bias="mgd_g2_b")
    method.draw = lambda maps: g.array("mgd_rand")
    return g.hyper["alpha"] * g.run(method, s, t)


@golden("cwd")
def cwd(g: Golden) -> Tensor:
    return g.value("cwd", *sides(g, ("s_feat1",), ("t_feat_same1",)), temperature=g.hyper["T"])


@golden("pkd")
def pkd(g: Golden) -> Tensor:
    return g.value("pkd", *sides(g, ("s_feat1",), ("t_feat_same1",)))

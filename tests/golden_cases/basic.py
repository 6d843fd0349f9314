"""ce, kd, fitnet, at, rkd, sp."""

from torch import Tensor

from . import Golden, golden, left_out

STAGES = tuple(range(3))


def maps(g: Golden, student: list[str], teacher: list[str]):
    return g.outputs("s", features=tuple(student)), g.outputs("t", features=tuple(teacher))


@golden("kd_T", "kd_T1", "kd_mdistiller")
def kd(g: Golden) -> Tensor:
    return g.value("kd", g.outputs("s"), g.outputs("t"), temperature=g.hyper["T"])


left_out("torchdistill's KD without T^2 is a defect; the T^2 form is the only one offered", "kd_torchdistill_alpha0")


@golden("label_smoothing")
def label_smoothing(g: Golden) -> Tensor:
    return g.value("ce", g.outputs("s"), g.outputs("t"), label_smoothing=g.hyper["eps"])


def regressor(g: Golden, student: str, conv: tuple[str, str]) -> Tensor:
    s, t = maps(g, [student], ["t_feat1"])
    method = g.method("fitnet", s, t, stage=-1)
    g.set(method.adapter.conv, weight=conv[0], bias=conv[1])
    g.set(method.adapter.bn, weight="adapt1_bn_w", bias="adapt1_bn_b")
    return g.run(method, s, t)


@golden("fitnet_1x1")
def fitnet_1x1(g: Golden) -> Tensor:
    return regressor(g, "s_feat1", ("adapt1_w", "adapt1_b"))


@golden("fitnet_stride2")
def fitnet_stride2(g: Golden) -> Tensor:
    return regressor(g, "s_feat0", ("fitnet_s2_w", "fitnet_s2_b"))


@golden("fitnet_deconv")
def fitnet_deconv(g: Golden) -> Tensor:
    return regressor(g, "s_feat2", ("fitnet_up_w", "fitnet_up_b"))


@golden("fitnet_core")
def fitnet_core(g: Golden) -> Tensor:
    return g.value("fitnet", *maps(g, ["s_feat1"], ["t_feat_same1"]), stage=-1, adapter="none")


def all_stages(g: Golden):
    return maps(g, [f"s_feat{i}" for i in STAGES], [f"t_feat{i}" for i in STAGES])


@golden("at")
def at(g: Golden) -> Tensor:
    return g.value("at", *all_stages(g), p=float(g.hyper["p"]))


@golden("at_pooled")
def at_pooled(g: Golden) -> Tensor:
    return g.value("at", *maps(g, ["s_feat0"], ["t_feat1"]), p=float(g.hyper["p"]), stages=(-1,))


@golden("at_paper")
def at_paper(g: Golden) -> Tensor:
    return g.value("at", *all_stages(g), p=2.0, form="paper")


@golden("at_zoo")
def at_zoo(g: Golden) -> Tensor:
    return g.value("at", *maps(g, ["s_feat2"], ["t_feat2"]), p=float(g.hyper["p"]), stages=(-1,), norm="l1p")


@golden("rkd", "rkd_distance", "rkd_angle")
def rkd(g: Golden) -> Tensor:
    s, t = g.outputs("s", embedding="s_embed"), g.outputs("t", embedding="t_embed")
    return g.value("rkd", s, t, distance=g.hyper["w_d"], angle=g.hyper["w_a"])


@golden("sp")
def sp(g: Golden) -> Tensor:
    return g.value("sp", *maps(g, ["s_feat2"], ["t_feat2"]), stage=-1)

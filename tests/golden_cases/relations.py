"""pkt, cc, irg, hkd, crd, srd, itrd, srrl, attn."""

from dataclasses import replace

from torch import Tensor

from . import Golden, golden


def vectors(g: Golden, teacher: str = "t_embed", **parts: str):
    return g.outputs("s", embedding="s_embed", **parts), g.outputs("t", embedding=teacher, **parts)


@golden("pkt")
def pkt(g: Golden) -> Tensor:
    return g.value("pkt", *vectors(g), eps=float(g.hyper.get("eps", 1e-7)))


@golden("pkt_zoo")
def pkt_zoo(g: Golden) -> Tensor:
    return g.value("pkt", *vectors(g), eps=float(g.hyper.get("eps", 1e-6)))


@golden("cc")
def cc(g: Golden) -> Tensor:
    method = g.method("cc", *vectors(g), dim=len(g.array("cc_bs")))
    g.set(method.embed_s, weight="cc_ws", bias="cc_bs")
    g.set(method.embed_t, weight="cc_wt", bias="cc_bt")
    return g.run(method, *vectors(g))


@golden("cc_taylor")
def cc_taylor(g: Golden) -> Tensor:
    return g.value("cc", *vectors(g, "t_embed_same"), form="paper", gamma=g.hyper["gamma"], order=g.hyper["P"])


def crd_method(g: Golden):
    hyper = g.hyper
    s, t = vectors(g)
    method = g.method(
        "crd", s, t, g.task(num_train=hyper["n_data"]),
        negatives=hyper["K"], momentum=hyper["m"], temperature=hyper["T"], dim=hyper["dim"],
    )  # fmt: skip
    g.set(method.embed_s, weight="crd_ws", bias="crd_bs")
    g.set(method.embed_t, weight="crd_wt", bias="crd_bt")
    g.set(method, memory_s="crd_mem_s", memory_t="crd_mem_t")
    method.draw = lambda batch: g.array("crd_contrast_idx")
    return method, s, t


@golden("crd_first")
def crd_first(g: Golden) -> Tensor:
    return g.run(*crd_method(g))


@golden("crd_second")
def crd_second(g: Golden) -> Tensor:
    method, s, t = crd_method(g)
    g.run(method, s, t)
    method.draw = lambda batch: g.array("crd_contrast_idx2")
    return g.run(method, s, t)


@golden("srd")
def srd(g: Golden) -> Tensor:
    s, t = vectors(g)
    method = g.method("srd", s, t, p=float(g.hyper["p"]))
    g.set(method.adapter, weight="srd_w", bias="srd_b")
    return g.hyper["w"] * g.run(method, s, t)


@golden("srd_torchdistill")
def srd_torchdistill(g: Golden) -> Tensor:
    """An objective of two methods: {srd: 2, kd: 1/T^2}."""
    s, t = vectors(g, "t_embed_same")
    power = g.value("srd", s, t, p=float(g.hyper["p"]), adapter="none", norm="none")
    return 2 * power + g.value("kd", s, t, temperature=g.hyper["T"]) / g.hyper["T"] ** 2


@golden("itrd", "itrd_correlation", "itrd_mutual")
def itrd(g: Golden) -> Tensor:
    s, t = vectors(g)
    method = g.method("itrd", s, t, **{name: g.hyper[name] for name in ("corr", "mutual", "alpha")})
    g.set(method.adapter, weight="srd_w", bias="srd_b")
    return g.run(method, s, t)


STAGES = tuple(range(3))


def maps(g: Golden, numbers=STAGES):
    return tuple(g.outputs(side, features=tuple(f"{side}_feat{i}" for i in numbers)) for side in ("s", "t"))


@golden("hkd_core")
def hkd_core(g: Golden) -> Tensor:
    return g.value("hkd", *vectors(g), on="embedding")


@golden("hkd")
def hkd(g: Golden) -> Tensor:
    return g.value("hkd", *maps(g), init=g.hyper["init"], decay=g.hyper["decay"])


@golden("hkd_decayed")
def hkd_decayed(g: Golden) -> Tensor:
    return g.value("hkd", *maps(g), init=g.hyper["init"], decay=g.hyper["decay"], weights="decayed")


def graph(g: Golden, teacher: str):
    s = g.outputs("s", embedding="s_embed", features=("s_feat0", "s_feat1"))
    return s, g.outputs("t", embedding=teacher, features=("t_feat0", "t_feat1"))


@golden("irg")
def irg(g: Golden) -> Tensor:
    w = g.hyper["w_graph"]
    sides = graph(g, "t_embed_same")
    return g.value("irg", *sides, vertex=w, edge=w, transform=g.hyper["w_transform"], stages=(-2, -1))


@golden("irg_zoo")
def irg_zoo(g: Golden) -> Tensor:
    weights = {"vertex": g.hyper["vert"], "edge": g.hyper["edge"], "transform": g.hyper["tran"]}
    return g.value("irg", *graph(g, "t_embed"), **weights, stages=(-2, -1), form="pictures")


def srrl_value(g: Golden, s, t, **settings) -> Tensor:
    method = g.method("srrl", s, t, **settings)
    g.set(method.conv, weight="adapt2_w")
    g.set(method.bn, weight="adapt2_bn_w", bias="adapt2_bn_b")
    return g.run(method, s, t)


@golden("srrl")
def srrl(g: Golden) -> Tensor:
    s = g.outputs("s", embedding="s_embed")
    return srrl_value(g, s, g.outputs("t", embedding="t_embed", classifier=("cls_t_w", "cls_t_b")))


@golden("srrl_map")
def srrl_map(g: Golden) -> Tensor:
    s = g.outputs("s", embedding="s_embed", features=("s_feat2",))
    t = g.outputs("t", features=("t_feat2",), classifier=("cls_t_w", "cls_t_b"))
    t = replace(t, embedding=g.array("t_feat2").mean((2, 3)))
    return srrl_value(g, s, t, form="map", alpha=g.hyper["alpha"], beta=g.hyper["beta"])


def attention(g: Golden, teacher: str, **settings) -> Tensor:
    s, t = g.outputs("s", attention=("s_attn",)), g.outputs("t", attention=(teacher,))
    return g.value("attn", s, t, **settings)


@golden("attn_kl")
def attn_kl(g: Golden) -> Tensor:
    return attention(g, "t_attn", heads="matched")


@golden("attn_kl_headmean")
def attn_kl_headmean(g: Golden) -> Tensor:
    return attention(g, "t_attn6")


@golden("attn_mse")
def attn_mse(g: Golden) -> Tensor:
    return attention(g, "t_attn", heads="matched", form="mse")

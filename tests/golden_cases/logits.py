"""Losses on logits and on labels."""

from dataclasses import replace

import torch
from torch import Tensor

from kdbench.method.contract import Outputs
from kdbench.method.functional import standardise
from kdbench.method.register import METHODS

from . import Golden, golden

# A case's name of a hyper-parameter -> the name of our setting.
SETTINGS = {"T": "temperature", "alpha_T": "alpha_temperature", "l": "exponent", "t_norm": "norm"}


def settings(g: Golden, *without: str) -> dict[str, float]:
    return {SETTINGS.get(name, name): value for name, value in g.hyper.items() if name not in without}


def plain(g: Golden, name: str, **more: object) -> Tensor:
    return g.value(name, g.outputs("s"), g.outputs("t"), **settings(g), **more)


@golden("logits_mse")
def logits_mse(g: Golden) -> Tensor:
    return plain(g, "logits_mse")


@golden("bkd")
def bkd(g: Golden) -> Tensor:
    return plain(g, "bkd")


@golden("dkd")
def dkd(g: Golden) -> Tensor:
    return plain(g, "dkd")


@golden("dist_T4", "dist_T1", "dist_T4_b1", "dist")
def dist(g: Golden) -> Tensor:
    return plain(g, "dist")


def standardised(g: Golden, name: str, population: bool = False) -> Tensor:
    s, t = (replace(x, logits=standardise(x.logits, population)) for x in (g.outputs("s"), g.outputs("t")))
    return g.value(name, s, t, **settings(g, "standardise"))


@golden("lskd")
def lskd(g: Golden) -> Tensor:
    return standardised(g, "kd")


@golden("lskd_popstd")
def lskd_popstd(g: Golden) -> Tensor:
    return standardised(g, "kd", population=True)


@golden("lskd_dkd")
def lskd_dkd(g: Golden) -> Tensor:
    return standardised(g, "dkd")


@golden("rld")
def rld(g: Golden) -> Tensor:
    return g.value("rld", g.outputs("s"), g.outputs("t"), **settings(g, "standardise"))


@golden("rld_standardised")
def rld_standardised(g: Golden) -> Tensor:
    return standardised(g, "rld")


def one_level(g: Golden, level: str) -> Tensor:
    weights = {name: float(name == level) for name in ("instance", "batch", "classes")}
    return g.value("mlkd", g.outputs("s"), g.outputs("t"), temperatures=(g.hyper["T"],), masks="none", **weights)


@golden("mlkd_instance")
def mlkd_instance(g: Golden) -> Tensor:
    return one_level(g, "instance")


@golden("mlkd_batch")
def mlkd_batch(g: Golden) -> Tensor:
    return one_level(g, "batch")


@golden("mlkd_class")
def mlkd_class(g: Golden) -> Tensor:
    return one_level(g, "classes")


def two_views(g: Golden, masks: str) -> Tensor:
    s, t = (replace(g.outputs(side), views={"second": Outputs(g.array(f"{side}_logits2"))}) for side in "st")
    mlkd = g.value("mlkd", s, t, temperatures=(g.hyper["T"], 3.0, 5.0, 2.0, 6.0), masks=masks)
    return g.hyper["ce"] * (g.value("ce", s, t) + g.value("ce_second", s, t)) + g.hyper["kd"] * mlkd


@golden("mlkd_total_as_coded")
def mlkd_total_as_coded(g: Golden) -> Tensor:
    return two_views(g, "code")


@golden("mlkd_total_masked")
def mlkd_total_masked(g: Golden) -> Tensor:
    return two_views(g, "entries")


@golden("ctkd")
def ctkd(g: Golden) -> Tensor:
    s, t = g.outputs("s"), g.outputs("t")
    ends = {"start": g.hyper["t_start"], "end": g.hyper["t_end"], "strength": -g.hyper["lam"]}
    method = g.method("ctkd", s, t, **ends)
    # The parameter's gradient is asked for, so the array itself stands in for it.
    losses = torch.func.functional_call(method, {"theta": g.array("ctkd_theta")}, (s, t, g.batch(progress=1.0)))
    return losses["ctkd"]


@golden("nkd")
def nkd(g: Golden) -> Tensor:
    return plain(g, "nkd")


@golden("nkd_unmasked")
def nkd_unmasked(g: Golden) -> Tensor:
    return plain(g, "nkd", form="unmasked")


@golden("ttm")
def ttm(g: Golden) -> Tensor:
    return plain(g, "ttm")


@golden("wttm")
def wttm(g: Golden) -> Tensor:
    return plain(g, "wttm")


@golden("normkd")
def normkd(g: Golden) -> Tensor:
    return plain(g, "normkd")


@golden("catkd", "catkd_nonorm")
def catkd(g: Golden) -> Tensor:
    method = METHODS["catkd"](grid=g.hyper["r"], normalise=g.hyper["normalize"])
    return method.distance(g.array("s_cam"), g.array("t_cam"))


def regions(g: Golden, loss: str) -> Tensor:
    method = METHODS["sdd"](loss=loss, **settings(g))
    return method.over_regions(g.array("s_patch"), g.array("t_patch"), g.array("target"))


@golden("sdd_dkd")
def sdd_dkd(g: Golden) -> Tensor:
    return regions(g, "dkd")


@golden("sdd_nkd_unmasked")
def sdd_nkd_unmasked(g: Golden) -> Tensor:
    return regions(g, "nkd_unmasked")


@golden("sdd_nkd")
def sdd_nkd(g: Golden) -> Tensor:
    return regions(g, "nkd")


@golden("sdd_kd")
def sdd_kd(g: Golden) -> Tensor:
    return regions(g, "kd")


def teacher_free(g: Golden, form: str) -> Tensor:
    s, t = g.outputs("s"), g.outputs("t")
    tfkd = g.value("tfkd", s, t, temperature=g.hyper["T"], form=form)
    return (1 - g.hyper["alpha"]) * g.value("ce", s, t) + g.hyper["alpha"] * g.hyper["mult"] * tfkd


@golden("tfkd_reg")
def tfkd_reg(g: Golden) -> Tensor:
    return teacher_free(g, "code")


@golden("tfkd_reg_paper")
def tfkd_reg_paper(g: Golden) -> Tensor:
    return teacher_free(g, "paper")


@golden("label_smoothing_tfkd")
def label_smoothing_tfkd(g: Golden) -> Tensor:
    return g.value("label_smoothing", g.outputs("s"), g.outputs("t"), smoothing=g.hyper["eps"], over="others")


@golden("ofa", "ofa_eps1")
def ofa(g: Golden) -> Tensor:
    return plain(g, "ofa", stages=())


@golden("wsld")
def wsld(g: Golden) -> Tensor:
    s, t = g.outputs("s"), g.outputs("t")
    return g.value("ce", s, t) + g.hyper["alpha"] * g.value("wsld", s, t, temperature=g.hyper["T"])


@golden("swap_kd")
def swap_kd(g: Golden) -> Tensor:
    return plain(g, "swap_kd")

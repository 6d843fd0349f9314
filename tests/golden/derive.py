"""Golden values that no public code gives in the form that is checked: worked out from the formulas in NumPy alone.

`python tests/golden/derive.py [FOLDER]` reads FOLDER/inputs.npz and writes FOLDER/ours.json, cases in the form of
golden.json. Nothing of kdbench or PyTorch is used. Gradients are central differences in float64 (relative error about
1e-9), but for `hidden`, whose is written down and checked by differences on some entries.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
H = 1e-5  # step of the central differences
RTOL = {"rtol_value": {"float64": 1e-7, "float32": 1e-5}, "rtol_grad_l2": {"float64": 1e-6, "float32": 1e-4}}


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: Array, q: Array) -> float:
    """Mean over rows of KL(p || q)."""
    return float((p * (np.log(p) - np.log(q))).sum(-1).mean())


def cross_entropy(logits: Array, target: Array) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(target)), target]).mean())


def unit_rows(x: Array) -> Array:
    return x / np.sqrt((x**2).sum(1, keepdims=True))


def differences(f: Callable[[Array], float], x: Array) -> Array:
    """The gradient of f at x, one entry after the other."""
    gradient = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = H
        gradient[place] = (f(x + step) - f(x - step)) / (2 * H)
    return gradient


def case(name: str, method: str, value: float, grads: dict[str, Array], hyper: dict[str, Any], **more: Any) -> dict:
    told = {}
    for array, g in grads.items():
        flat = g.ravel()
        told[array] = {
            "l2": repr(float(np.linalg.norm(flat))),
            "first4": [repr(float(v)) for v in flat[:4]],
            "cosdot": repr(float(flat @ np.cos(np.arange(flat.size)))),
        }
    source = {"repo": "none", "file": "tests/golden/derive.py"}
    head = {"id": name, "method": method, "source": source, "hyper": hyper, "inputs": list(grads), **more}
    return {**head, "value": repr(value), "grads": told, **RTOL}


def itrd(a: dict[str, Array]) -> dict:
    """Equal widths: the mutual term on the embedding itself, the correlation on the projected one (ITRD, IT.py:102)."""
    hyper = {"alpha": 1.01, "corr": 2.0, "mutual": 1.0}
    t, w, b = a["t_embed_same"], a["srd_w"][:64], a["srd_b"][:64]

    def standard(x: Array) -> Array:
        return (x - x.mean(0)) / x.std(0, ddof=1)

    def value(s: Array) -> float:
        c = (standard(s @ w.T + b) * standard(t)).sum(0) / len(s)
        g_s, g_t = unit_rows(s) @ unit_rows(s).T, unit_rows(t) @ unit_rows(t).T
        g_st = g_s * g_t
        mutual = ((g_s / np.trace(g_s)) ** 2).sum() - ((g_st / np.trace(g_st)) ** 2).sum()
        return float(hyper["corr"] * np.log2((((c - 1) ** 2) ** hyper["alpha"]).sum()) + hyper["mutual"] * mutual)

    s = a["s_embed"]
    return case("itrd_equal", "ITRD", value(s), {"s_embed": differences(value, s)}, hyper)


def dml(a: dict[str, Array]) -> dict:
    """Each takes the other's probabilities as constants: a gradient of each part alone."""
    s, peer, y = a["s_logits"], a["s_logits2"], a["target"]

    def own(x: Array) -> float:
        return kl(softmax(peer), softmax(x))

    def other(x: Array) -> float:
        return kl(softmax(s), softmax(x)) + cross_entropy(x, y)

    grads = {"s_logits": differences(own, s), "s_logits2": differences(other, peer)}
    return case("dml", "DML", own(s) + other(peer), grads, {})


def deit(a: dict[str, Array], form: str) -> dict:
    """The logits are the mean of both heads: class head = 2 logits - token's."""
    hyper = {"form": form, "temperature": 3.0, "label": 1.0}
    s, token, t, y = a["s_logits"], a["s_logits2"], a["t_logits"], a["target"]

    def value(s: Array, token: Array) -> float:
        hard, soft = cross_entropy(token, t.argmax(1)), 9 * kl(softmax(t / 3), softmax(token / 3))
        return (hard if form == "hard" else soft) + cross_entropy(2 * s - token, y)

    grads = {
        "s_logits": differences(lambda x: value(x, token), s),
        "s_logits2": differences(lambda x: value(s, x), token),
    }
    return case(f"deit_{form}", "DeiT", value(s, token), grads, hyper)


def matching(a: dict[str, Array], name: str, s: str, t: str, temperature: float) -> dict:
    def value(x: Array) -> float:
        return temperature**2 * kl(softmax(a[t] / temperature), softmax(x / temperature))

    return case(name, name, value(a[s]), {s: differences(value, a[s])}, {"temperature": temperature})


def hidden(a: dict[str, Array]) -> dict:
    """Sum over three stages of MSE(W h_s, h_t); gradient 2/n W^T (W h_s - h_t)."""
    total, grads = 0.0, {}
    for i in range(3):
        s, t, w = a[f"s_feat{i}"], a[f"t_feat{i}"], a[f"adapt{i}_w"][:, :, 0, 0]
        error = np.einsum("oc,bchw->bohw", w, s) - t
        total += float((error**2).mean())
        grads[f"s_feat{i}"] = 2 / error.size * np.einsum("oc,bohw->bchw", w, error)
        for place in ((0, 0, 0, 0), (3, 5, 1, 2)):
            step = np.zeros_like(s)
            step[place] = H
            up, down = (float(((np.einsum("oc,bchw->bohw", w, s + d) - t) ** 2).mean()) for d in (step, -step))
            assert abs((up - down) / (2 * H) - grads[f"s_feat{i}"][place]) < 1e-9
    return case("hidden", "HiddenStates", total, grads, {"layers": [-3, -2, -1]})


def dot(a: dict[str, Array]) -> dict:
    """Four steps of the paper's recursion on a parameter; the value is sum_i p_i cos(i) of where it ends."""
    hyper = {"delta": 0.075, "momentum": 0.9, "lr": 0.05, "weight_decay": 5e-4, "steps": 4}
    p, v_task, v_kd = a["s_logits2"], np.zeros_like(a["s_logits2"]), np.zeros_like(a["s_logits2"])
    for step in range(hyper["steps"]):
        g_task, g_kd = a["s_logits"] * (step + 1), a["t_logits"] / (step + 1)
        v_task = (hyper["momentum"] - hyper["delta"]) * v_task + g_task + hyper["weight_decay"] * p
        v_kd = (hyper["momentum"] + hyper["delta"]) * v_kd + g_kd
        p = p - hyper["lr"] * (v_task + v_kd)
    value = float(p.ravel() @ np.cos(np.arange(p.size)))
    return case("dot", "DOT", value, {}, hyper)


def main(folder: Path) -> None:
    with np.load(folder / "inputs.npz") as file:
        a = {name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in file.items()}
    cases = [
        itrd(a),
        dml(a),
        deit(a, "hard"),
        deit(a, "soft"),
        hidden(a),
        matching(a, "function_matching", "s_logits2", "t_logits2", 2.0),
        matching(a, "fixed_teacher", "s_logits", "t_logits2", 1.0),
        dot(a),
    ]
    (folder / "ours.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)

"""Every method meets its golden values: loss and gradient, in float64 and float32.

Arrays, cases and every hyper-parameter are read from the folder that KDBENCH_GOLDEN names, by default `tests/golden`
(its README holds the mathematics). How a case's arrays are handed to a method stands in `tests/golden_cases/`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import Golden, case_function, golden_folder, load_cases, why_left_out

from kdbench.method.register import METHODS

CASES = load_cases()
DTYPES = {"float64": torch.float64, "float32": torch.float32}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=[c["id"] for c in CASES])
def test_golden(case, dtype):
    if (reason := why_left_out(case["id"])) is not None:
        pytest.skip(reason)
    golden = Golden(case, DTYPES[dtype])
    value = case_function(case["id"])(golden)
    expected, rtol = float(case["value"]), case["rtol_value"][dtype]
    assert abs(value.item() - expected) <= rtol * abs(expected), f"{value.item()} is not {expected} (rtol {rtol})"
    check_gradients(golden, value, case, dtype)


def check_gradients(golden, value, case, dtype):
    names = list(case["grads"])
    if not names:
        return
    found = torch.autograd.grad(value, [golden.array(name) for name in names], allow_unused=True)
    rtol = case["rtol_grad_l2"][dtype]
    for name, gradient in zip(names, found, strict=True):
        assert gradient is not None, f"no gradient reaches {name}"
        want = case["grads"][name]
        l2 = float(want["l2"])
        flat = gradient.detach().double().numpy().ravel()
        assert abs(np.linalg.norm(flat) - l2) <= rtol * l2, f"gradient's norm for {name}"
        for got, first in zip(flat[:4], want["first4"], strict=True):
            assert abs(got - float(first)) <= rtol * l2, f"gradient's first entries for {name}"
        cosdot = float(flat @ np.cos(np.arange(flat.size)))
        assert abs(cosdot - float(want["cosdot"])) <= 3 * rtol * l2, f"gradient's cosdot for {name}"


def test_no_gradient_reaches_the_teacher():
    """The arrays of the teacher ask for a gradient here, to see that none would come."""
    for case in CASES:
        if why_left_out(case["id"]) is None:
            golden = Golden(case, torch.float64)
            value = case_function(case["id"])(golden)
            assert value.requires_grad or not case["grads"], case["id"]
            assert not any(golden.array(name).requires_grad for name in case["inputs"] if name.startswith("t_"))


# What has no case of its own, and why none is needed.
WITHOUT = {"reviewkd_features": "reviewkd, on other maps of the teacher"}


@pytest.mark.skipif(golden_folder().name != "golden", reason="other arrays need not cover every method")
def test_every_method_has_a_golden_case(monkeypatch):
    used = set()
    get = type(METHODS).__getitem__
    monkeypatch.setattr(type(METHODS), "__getitem__", lambda self, name: used.add(name) or get(self, name))
    for case in CASES:
        if why_left_out(case["id"]) is None:
            case_function(case["id"])(Golden(case, torch.float32))
    tests = Path(__file__).parents[1]  # values worked by hand, beside the formula
    elsewhere = "".join((tests / name).read_text() for name in ("method/test_new_methods.py", "text/test_values.py"))
    assert {name for name in set(METHODS) - used if f'"{name}"' not in elsewhere} == set(WITHOUT)


def test_left_out_cases_exist():
    if golden_folder().name == "golden":
        known = {case["id"] for case in CASES}
        assert {i for i in known if why_left_out(i)} <= known

"""`python -m kdbench.golden FILE.py`: golden cases from expressions of an author's own, which the method has to meet.

FILE.py holds a function a case, written from the paper and not from the method's code:

    def cosine_p2(s_embed, t_embed, srd_w, p=2.0):
        \"\"\"mean_b (1 - <unit(W s_b), unit(t_b)>)^p\"\"\"
        ...
        return value

What has no default is an array of inputs.npz, in double precision; what has one is a setting of the method. The
docstring notes the mathematics. NumPy functions get arrays, and the gradient with respect to every array of the student
(`s_...`) is by central differences, with two steps that must agree; where the file imports torch they get tensors, and
the gradient is autograd's, held against a central difference along a fixed direction.
"""

import ast
import inspect
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdbench.errors import UserError, first_line, in_words, unknown

Array = np.ndarray
Case = dict[str, Any]
STEP = 1e-5  # of the central differences: error about 1e-10 of the value's scale
AGREE = 1e-6  # two ways to the same gradient, relative to its norm
RTOL = {"rtol_value": {"float64": 1e-7, "float32": 1e-5}, "rtol_grad_l2": {"float64": 1e-6, "float32": 1e-4}}


def main(arguments: Sequence[str]) -> int:
    if len(arguments) not in (1, 2) or not arguments[0].endswith(".py"):
        print("usage: python -m kdbench.golden FILE.py [inputs.npz]", file=sys.stderr)
        return 2
    file = Path(arguments[0])
    inputs = Path(arguments[1]) if len(arguments) == 2 else Path("tests/golden/inputs.npz")
    try:
        cases = cases_of(file, inputs)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    target = file.with_suffix(".json")
    target.write_text(json.dumps({"cases": cases}, indent=1) + "\n", encoding="utf-8")
    print(f"{target}: {', '.join(case['id'] for case in cases)}\nNow hand them to the method, in tests/golden_cases/:")
    for case in cases:
        print(f"\n{sketch(case)}")
    return 0


def cases_of(file: Path, inputs: Path) -> list[Case]:
    """The cases of all public functions of `file`, in its order. Raises UserError."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if not inputs.is_file():
        raise UserError(f"{inputs}: no such file; run this in a clone of kdbench, which has it")
    _must_be_independent(file)
    with np.load(inputs) as arrays:
        known = {name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in arrays.items()}
    left = runpy.run_path(str(file))
    functions = {n: f for n, f in left.items() if inspect.isfunction(f) and f.__globals__.get("__file__") == str(file)}
    found = {name: function for name, function in functions.items() if not name.startswith("_")}
    if not found:
        raise UserError(f"{file}: no function; one whose name has no _ before it is a case")
    return [_case(file, name, function, known, "torch" in left) for name, function in found.items()]


def _must_be_independent(file: Path) -> None:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UserError(f"{file}:{getattr(error, 'lineno', 1)}: {first_line(error)}") from error
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] in ("kdbench", "methods") for name in names):
            line = getattr(node, "lineno", 1)
            raise UserError(f"{file}:{line}: the expression must be independent: it may use nothing of kdbench")


def _case(file: Path, name: str, function: Callable[..., Any], known: dict[str, Array], with_torch: bool) -> Case:
    place = f"{file}:{function.__code__.co_firstlineno}: {name}"
    parameters = inspect.signature(function).parameters.values()
    hyper = {p.name: p.default for p in parameters if p.default is not p.empty}
    names = [p.name for p in parameters if p.default is p.empty]
    if wrong := [unknown("array", each, known) for each in names if each not in known]:
        raise UserError("\n".join(f"{place}: {line}" for line in wrong))
    if not list(_of_the_student({name: known[name] for name in names})):
        raise UserError(f"{place}: it reads no array of the student (s_...), so no gradient is held")
    if not inspect.getdoc(function):
        raise UserError(f"{place}: its docstring must note the mathematics")
    given = {each: known[each] for each in names}
    try:
        value, gradients = (by_autograd if with_torch else by_differences)(function, given)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
    except Exception as error:
        raise UserError(f"{place}: {in_words(error)}") from error
    return {
        "id": name,
        "source": {"repo": "none", "file": file.name},
        "mathematics": inspect.getdoc(function),
        "hyper": hyper,
        "inputs": names,
        "value": repr(value),
        "grads": {each: told(gradient) for each, gradient in gradients.items()},
        **RTOL,
    }


def told(gradient: Array) -> dict[str, Any]:
    """A gradient in three figures: its norm, its first entries, sum_i g_i cos(i)."""
    flat = gradient.ravel()
    cosdot = float(flat @ np.cos(np.arange(flat.size)))
    return {
        "l2": repr(float(np.linalg.norm(flat))),
        "first4": [repr(float(g)) for g in flat[:4]],
        "cosdot": repr(cosdot),
    }


def by_differences(function: Callable[..., Any], given: dict[str, Array]) -> tuple[float, dict[str, Array]]:
    """Value, and the gradients for the student's arrays. Raises UserError where the loss has a kink."""
    value, gradients = _one_number(function(**given)), {}
    for name in _of_the_student(given):
        fine, coarse = (_differences(function, given, name, step) for step in (STEP, 4 * STEP))
        _must_agree(name, fine, coarse, "has a kink near these inputs: its differences depend on the step")
        gradients[name] = fine
    return value, gradients


def _one_number(value: Any) -> float:
    if np.ndim(value):
        raise UserError(f"it gives an array of shape {np.shape(value)}, and a loss is one number: is a mean missing?")
    if not np.isfinite(found := float(value)):
        raise UserError(f"it gives {found} for these inputs")
    return found


def _differences(function: Callable[..., Any], given: dict[str, Array], name: str, step: float) -> Array:
    gradient = np.zeros_like(given[name])
    for place in np.ndindex(gradient.shape):
        off = np.zeros_like(gradient)
        off[place] = step
        up, down = (float(function(**{**given, name: given[name] + sign * off})) for sign in (1, -1))
        gradient[place] = (up - down) / (2 * step)
    return gradient


def by_autograd(function: Callable[..., Any], given: dict[str, Array]) -> tuple[float, dict[str, Array]]:
    """The same for a function of torch's tensors, whose autograd is held against a difference along one direction."""
    import torch

    tensors = {name: torch.from_numpy(np.array(x)) for name, x in given.items()}
    asked = {name: tensors[name].requires_grad_() for name in _of_the_student(given)}
    value = function(**tensors)
    _one_number(value.detach() if isinstance(value, torch.Tensor) else value)
    found = torch.autograd.grad(value, list(asked.values()))
    gradients = {name: g.numpy() for name, g in zip(asked, found, strict=True)}
    for name, gradient in gradients.items():
        way = np.cos(np.arange(gradient.size)).reshape(gradient.shape)
        ends = [{**given, name: given[name] + sign * STEP * way} for sign in (1, -1)]
        up, down = (float(function(**{k: torch.from_numpy(np.array(v)) for k, v in end.items()})) for end in ends)
        slope = np.array((up - down) / (2 * STEP))
        _must_agree(
            name, np.vdot(gradient, way), slope, "has another gradient than its values say: is a part detached?"
        )
    return float(value.detach()), gradients


def _of_the_student(given: dict[str, Array]) -> Iterator[str]:
    return (name for name, array in given.items() if name.startswith("s_") and array.dtype.kind == "f")


def _must_agree(name: str, one: Any, other: Any, why: str) -> None:
    if not np.linalg.norm(one - other) <= AGREE * max(float(np.linalg.norm(one)), 1e-3):
        raise UserError(f"with respect to {name} it {why}")


def sketch(case: Case) -> str:
    """A beginning of the function that hands the arrays to the method."""
    parts = {"logits": "logits", "embed": "embedding", "feat1": "features", "attn": "attention"}

    def side(letter: str) -> str:
        own = [name for name in case["inputs"] if name.startswith(f"{letter}_")]
        named = [f'{parts.get(n.removeprefix(f"{letter}_").removesuffix("_same"), "?")}="{n}"' for n in own]
        return f'g.outputs("{letter}", {", ".join(named)})' if named else f'g.outputs("{letter}")'

    others = [name for name in case["inputs"] if not name.startswith(("s_", "t_")) and name not in ("target", "index")]
    lines = [f'@golden("{case["id"]}")', f"def {case['id']}(g: Golden) -> Tensor:"]
    lines += [f"    s, t = {side('s')}, {side('t')}", '    method = g.method("METHOD", s, t, **g.hyper)']
    lines += [f'    g.set(method.PART, weight="{name}")' for name in others]
    return "\n".join([*lines, "    return g.run(method, s, t)"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

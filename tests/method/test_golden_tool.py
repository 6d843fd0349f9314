"""`python -m kdbench.golden`: what it makes is right, and it makes nothing of an expression that is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_cases import Golden, golden_folder
from test_golden import check_gradients

from kdbench.errors import UserError
from kdbench.golden import cases_of, main
from kdbench.suite.plugins import load_plugin

ROOT = Path(__file__).parents[2]
INPUTS = ROOT / "tests" / "golden" / "inputs.npz"
ADDED = sorted((golden_folder() / "added").glob("*.py"))


def written(folder: Path, body: str, head: str = "import numpy as np", doc: str = '"""x"""') -> Path:
    path = folder / "expression.py"
    path.write_text(f"{head}\n\n\ndef case(s_logits, t_logits, T=2.0):\n    {doc}\n    {body}\n")
    return path


@pytest.mark.parametrize("file", ADDED, ids=lambda path: path.stem)
def test_the_cases_are_those_of_their_expressions(file: Path) -> None:
    stored = json.loads(file.with_suffix(".json").read_text())["cases"]
    for case, old in zip(cases_of(file, golden_folder() / "inputs.npz"), stored, strict=True):
        assert {k: v for k, v in case.items() if k not in ("value", "grads")} == {
            k: v for k, v in old.items() if k not in ("value", "grads")
        }
        assert float(case["value"]) == pytest.approx(float(old["value"]), rel=1e-12)
        for name, told in case["grads"].items():
            l2 = float(told["l2"])
            assert l2 == pytest.approx(float(old["grads"][name]["l2"]), rel=1e-7)
            assert float(told["cosdot"]) == pytest.approx(float(old["grads"][name]["cosdot"]), abs=1e-7 * l2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_example_meets_its_case(dtype: torch.dtype) -> None:
    load_plugin(ROOT / "examples" / "cosine.py")
    [case] = cases_of(ROOT / "examples" / "cosine_golden.py", INPUTS)
    g, name = Golden(case, dtype), str(dtype).removeprefix("torch.")
    s, t = g.outputs("s", embedding="s_embed"), g.outputs("t", embedding="t_embed")
    method = g.method("cosine", s, t, **g.hyper)
    g.set(method.project, weight="srd_w", bias="srd_b")
    value = g.run(method, s, t)
    assert value.item() == pytest.approx(float(case["value"]), rel=case["rtol_value"][name])
    check_gradients(g, value, case, name)


def test_torch_and_numpy_agree(tmp_path: Path) -> None:
    body = "return ((s_logits / T - t_logits) ** 2).mean()"
    by_numpy = cases_of(written(tmp_path, body), INPUTS)[0]
    by_torch = cases_of(written(tmp_path, body, "import torch"), INPUTS)[0]
    assert float(by_numpy["value"]) == pytest.approx(float(by_torch["value"]), rel=1e-12)
    one, other = (case["grads"]["s_logits"] for case in (by_numpy, by_torch))
    assert float(one["l2"]) == pytest.approx(float(other["l2"]), rel=1e-8)
    with np.load(INPUTS) as arrays:
        s, t = (arrays[name].astype(np.float64) for name in ("s_logits", "t_logits"))
    assert float(other["first4"][0]) == pytest.approx((s / 2 - t).flat[0] / s.size, rel=1e-9)  # by hand


@pytest.mark.parametrize(
    ("body", "head", "doc", "message"),
    [
        ("return 0.0", "from kdbench import Method", '"""x"""', r":1: the expression must be independent"),
        ("return 0.0", "import numpy as np", "", "docstring must note the mathematics"),
        ("at", "import numpy as np", '"""x"""', "kink"),
        ("return s_logits.nope", "import numpy as np", '"""x"""', "AttributeError"),
        ("return (s_logits.detach() * s_logits).sum()", "import torch", '"""x"""', "is a part detached"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, body: str, head: str, doc: str, message: str, capsys) -> None:
    file = written(tmp_path, body, head, doc)
    if message == "kink":  # 2e-5 beside one of the entries
        with np.load(INPUTS) as arrays:
            at = float(arrays["s_logits"].astype(np.float64)[0, 0]) - 2e-5
        file = written(tmp_path, f"return np.maximum(s_logits - {at!r}, 0)[0, 0] * 1.0", head, doc)
    assert main([str(file), str(INPUTS)]) == 2
    assert message in capsys.readouterr().err
    assert not file.with_suffix(".json").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('def case(s_logits)\n    """x"""\n', "e.py:1: SyntaxError"),
        ('def case(t_logits):\n    """x"""\n', "no array of the student"),
    ],
)
def test_a_file_that_makes_no_case(tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e.py"
    file.write_text(text)
    assert main([str(file), str(INPUTS)]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_array_has_a_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "e.py"
    file.write_text('def case(s_logit, T=1.0):\n    """x"""\n    return 0.0\n')
    assert main([str(file), str(INPUTS)]) == 2
    assert "did you mean 's_logits" in capsys.readouterr().err


def test_contributing_shows_the_example() -> None:
    example = (ROOT / "examples" / "cosine_golden.py").read_text()
    assert example[example.index("def ") :] in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(("body", "words"), [
    ("return ((s_logits - t_logits) ** 2).mean(axis=1)", r"it gives an array of shape \(\d+,\), and a loss is one"),
    ("return (s_logits * t_logits).sum() * np.nan", "it gives nan for these inputs"),
])  # fmt: skip
def test_what_is_no_loss_is_said(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        cases_of(written(tmp_path, body), INPUTS)

"""Values of the losses on sequences against NumPy, written here anew: every place that a mask hides is left out.

Nothing of the methods' own code is used on the right-hand side. Each case is checked in double precision, for its value
and for its gradient by finite differences of the NumPy expression.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdbench.method.contract import Batch, Field, Inapplicable, InputSpec, Method, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.suite.plugins import load_methods

load_methods()
B, L, HEADS, WIDTH = 3, 5, 2, 4  # samples, places, heads, width of a head
LENGTHS = (5, 2, 3)
REAL = np.arange(L) < np.array(LENGTHS)[:, None]
Expression = Callable[[np.ndarray], float]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def outputs(**given: Any) -> Outputs:
    return Outputs(torch.zeros(B, 2, dtype=torch.float64), mask=torch.from_numpy(REAL), **given)


def made(name: str, student: Outputs, teacher: Outputs, **settings: Any) -> Method:
    method = METHODS[name](**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method.build(student, teacher, Task(2, B, InputSpec((Field("ids", (L,)),))))
    return method.double()


def check(name: str, field: str, student: Outputs, teacher: Outputs, expression: Any, **settings: Any) -> None:
    """Of the student's first tensor in `field`; `expression(x, method's weights)`."""
    method = made(name, student, teacher, **settings)
    weights = {key: value.detach().numpy() for key, value in method.state_dict().items()}
    given = getattr(student, field)
    x = (given[0] if isinstance(given, tuple) else given).clone().requires_grad_()
    changed = replace(student, **{field: (x, *given[1:]) if isinstance(given, tuple) else x})
    batch = Batch(torch.zeros(B), torch.zeros(B, dtype=torch.int64), torch.arange(B))
    loss = torch.stack(list(method(changed, teacher, batch).values())).sum()
    value = expression(x.detach().numpy(), weights)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    [gradient] = torch.autograd.grad(loss, x)
    assert gradient.any()
    for seed in (90, 91):
        along = draw(*x.shape, seed=seed)
        ends = [expression((x.detach() + sign * 1e-6 * along).numpy(), weights) for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * along).sum().item(), rel=1e-5, abs=1e-8)


def states(width: int, seed: int) -> Tensor:
    return draw(B, L, width, seed=seed) * torch.from_numpy(REAL)[..., None]


S, T = states(4, 1), states(6, 2)
T_SAME = states(4, 3)


def test_hidden() -> None:
    def expression(x: np.ndarray, weights: dict[str, np.ndarray]) -> float:
        rows = [(weights["project.0.weight"] @ x[b, p] - T[b, p].numpy()) for b in range(B) for p in range(LENGTHS[b])]
        return float(np.mean(np.square(rows)))

    check("hidden", "features", outputs(features=(S,)), outputs(features=(T,)), expression, layers=(-1,))


@pytest.mark.parametrize("teacher", [T, T_SAME], ids=["projected", "equal"])
def test_hidden_cosine(teacher: Tensor) -> None:
    def expression(x: np.ndarray, weights: dict[str, np.ndarray]) -> float:
        total = 0.0
        for b in range(B):
            for p in range(LENGTHS[b]):
                s, t = weights["project.0.weight"] @ x[b, p] if weights else x[b, p], teacher[b, p].numpy()
                total += 1 - s @ t / np.sqrt(s @ s) / np.sqrt(t @ t)
        return total / sum(LENGTHS)

    check("hidden_cosine", "features", outputs(features=(S,)), outputs(features=(teacher,)), expression)


def normal(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


@pytest.mark.parametrize(
    ("mapping", "partners"), [("skip", (1, 3)), ("last", (3, 4))]
)  # of the layers 1, 2 of a student with 3, in a teacher with 6
def test_patient(mapping: str, partners: tuple[int, int]) -> None:
    student = outputs(features=(S, states(4, 4), states(4, 5)))
    teacher = outputs(features=tuple(states(4, 10 + place) for place in range(6)))
    second = student.features[1].numpy()

    def squares(x: np.ndarray) -> np.ndarray:  # [2, B, D]
        both = zip((x, second), partners, strict=True)
        return np.array(
            [[(normal(s[b, 0]) - normal(teacher.features[t][b, 0].numpy())) ** 2 for b in range(B)] for s, t in both]
        )

    check("patient", "features", student, teacher, lambda x, _: float(squares(x).mean()), map=mapping)
    paper = {"map": mapping, "form": "paper"}
    check("patient", "features", student, teacher, lambda x, _: float(squares(x).sum((0, 2)).mean()), **paper)


def test_patient_says_where_it_has_nothing_to_do() -> None:
    with pytest.raises(Inapplicable, match="layers before the last; the student has 1"):
        made("patient", outputs(features=(S,)), outputs(features=(T,)))
    deep, flat = outputs(features=(S, S, S)), outputs(features=(T,))
    with pytest.raises(Inapplicable, match="as deep as its student"):
        made("patient", deep, flat, map="last")


def test_embedding_layer() -> None:
    def expression(x: np.ndarray, weights: dict[str, np.ndarray]) -> float:
        rows = [(weights["project.weight"] @ x[b, p] - T[b, p].numpy()) for b in range(B) for p in range(LENGTHS[b])]
        return float(np.mean(np.square(rows)))

    check("embedding_layer", "stem", outputs(stem=S), outputs(stem=T), expression)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def relations(x: np.ndarray, b: int, heads: int) -> list[np.ndarray]:
    """R = softmax(X X^T / sqrt(d)) of each head over the real places of sample b; the nets' heads joined and split."""
    joined = x[b].transpose(1, 0, 2).reshape(L, -1)[: LENGTHS[b]]
    return [np.array([softmax(row) for row in part @ part.T / np.sqrt(part.shape[1])])
            for part in np.split(joined, heads, axis=1)]  # fmt: skip


@pytest.mark.parametrize("heads", [None, 4])
def test_value_relations(heads: int | None) -> None:
    """MiniLM's own heads, and MiniLMv2's regrouped ones of nets of other widths."""
    count = heads or HEADS
    x_s, x_t = draw(B, HEADS, L, WIDTH, seed=6), draw(B, HEADS if heads is None else 3, L, WIDTH, seed=7)

    def expression(x: np.ndarray, _: Any) -> float:
        rows = []
        for b in range(B):
            for q, p in zip(relations(x, b, count), relations(x_t.numpy(), b, count), strict=True):
                rows += (p * np.log(p / q)).sum(1).tolist()
        return float(np.mean(rows))

    both = [outputs(values=(x,), queries=(x,), keys=(x,)) for x in (x_s, x_t)]
    check("value_relations", "values", *both, expression, heads=heads)


def test_relations_of_queries_keys_and_values_add_up() -> None:
    """MiniLMv2 adds the three: each is the same function of its own tensors."""
    names = ("queries", "keys", "values")
    student, teacher = (outputs(**{n: (draw(B, HEADS, L, WIDTH, seed=k + i),) for i, n in enumerate(names)})
                        for k in (20, 30))  # fmt: skip
    batch = Batch(torch.zeros(B), torch.zeros(B, dtype=torch.int64), torch.arange(B))
    whole = made("value_relations", student, teacher, of=names, heads=4)(student, teacher, batch)
    for name in names:
        alone = made("value_relations", student, teacher, of=(name,), heads=4)(student, teacher, batch)
        assert whole[f"relations_{name}"].equal(alone[f"relations_{name}"])


def attention(seed: int) -> Tensor:
    """[B, HEADS, L, L]: nothing at places that the mask hides."""
    scores = draw(B, HEADS, L, L, seed=seed).masked_fill(~torch.from_numpy(REAL)[:, None, None, :], -torch.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("form", ["kl", "mse"])
def test_attention_maps(form: str) -> None:
    a_s, a_t = attention(8), attention(9).numpy()

    def expression(x: np.ndarray, _: Any) -> float:
        terms = []
        for b in range(B):
            n = LENGTHS[b]
            s, t = x[b, :, :n, :n], a_t[b, :, :n, :n]
            terms.append((t * np.log(t / s)).sum(2).flatten() if form == "kl" else ((s - t) ** 2).flatten())
        return float(np.concatenate(terms).mean())

    given = {"form": form, "heads": "matched"}
    student, teacher = outputs(attention=(a_s,)), outputs(attention=(torch.from_numpy(a_t),))
    inner = REAL[:, None, :, None] & REAL[:, None, None, :]

    def at_real_places(x: np.ndarray, weights: Any) -> float:  # a step along must not leave zero where nothing is seen
        return expression(np.where(inner, x, 1.0), weights)

    check("attn", "attention", student, teacher, at_real_places, **given)


def test_attention_scores() -> None:
    q_s, k_s, q_t, k_t = (draw(B, HEADS, L, WIDTH, seed=40 + place) for place in range(4))

    def expression(x: np.ndarray, _: Any) -> float:
        terms = []
        for b in range(B):
            n = LENGTHS[b]
            for h in range(HEADS):
                s = x[b, h, :n] @ k_s[b, h, :n].numpy().T / np.sqrt(WIDTH)
                t = q_t[b, h, :n].numpy() @ k_t[b, h, :n].numpy().T / np.sqrt(WIDTH)
                terms.append(((s - t) ** 2).flatten())
        return float(np.concatenate(terms).mean())

    student, teacher = outputs(queries=(q_s,), keys=(k_s,)), outputs(queries=(q_t,), keys=(k_t,))
    check("attention_scores", "queries", student, teacher, expression, layers=(-1,))


def test_sp() -> None:
    def expression(x: np.ndarray, _: Any) -> float:
        rows = []
        for states_of in (x * REAL[..., None], T.numpy()):
            gram = np.array([[(a * b).sum() for b in states_of] for a in states_of])
            rows.append(gram / np.sqrt((gram**2).sum(1, keepdims=True)))
        return float(((rows[0] - rows[1]) ** 2).mean())

    student = outputs(features=(S,))
    method = made("sp", student, outputs(features=(T,)))
    batch = Batch(torch.zeros(B), torch.zeros(B, dtype=torch.int64), torch.arange(B))
    loss = method(student, outputs(features=(T,)), batch)["sp"]
    assert loss.item() == pytest.approx(expression(S.numpy(), {}), rel=1e-9)


def test_what_reads_sequences_says_so_of_maps_beside_them() -> None:
    maps = outputs(features=(draw(B, 4, 2, 2, seed=70),))
    for name in ("hidden", "hidden_cosine"):
        with pytest.raises(Inapplicable, match="maps of both nets, or sequences of both"):
            made(name, outputs(features=(S,)), maps, layers=(-1,))
        with pytest.raises(Inapplicable, match="same places of a sequence; student has 5, teacher 7"):
            made(name, outputs(features=(S,)), outputs(features=(draw(B, 7, 4, seed=71),)), layers=(-1,))


def test_outputs_know_their_mask() -> None:
    given = outputs(features=(S,))
    assert "mask" in {f.name for f in fields(given)}
    assert given.map(lambda x: x[:1]).mask.shape == (1, L)


NUMBERS = torch.tensor([0.5, -1.0, 3.25], dtype=torch.float64)  # what is true of the B samples
SAID = [torch.tensor([x], dtype=torch.float64).T for x in ([1.0, 0.5, 3.0], [0.75, -3.0, 3.75])]  # student, teacher


@pytest.mark.parametrize(
    ("name", "settings", "by_hand"),
    [
        ("mse", {}, (0.25 + 2.25 + 0.0625) / 3),
        ("teacher_mse", {}, (0.0625 + 12.25 + 0.5625) / 3),
        ("bounded", {}, 0.25 / 3),  # errors 0.25, 2.25, 0.0625 against the teacher's 0.0625, 4, 0.25
        ("bounded", {"margin": 0.2}, (0.25 + 0.0625) / 3),
        ("bounded", {"margin": 2.0}, (0.25 + 2.25 + 0.0625) / 3),
    ],
)
def test_losses_of_numbers(name: str, settings: dict[str, Any], by_hand: float) -> None:
    method, task = METHODS[name](**settings), Task(1, B, InputSpec((Field("ids", (L,)),)), kind="numbers")
    student, teacher = (Outputs(x.clone()) for x in SAID)
    student.logits.requires_grad_()
    method.build(student, teacher, task)
    batch = Batch(torch.zeros(B), NUMBERS, torch.arange(B))
    loss = method(student, teacher, batch)[name]
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)
    [gradient] = torch.autograd.grad(loss, student.logits)
    for place in range(B):
        ends = []
        for sign in (1, -1):
            moved = SAID[0].clone()
            moved[place] += sign * 1e-6
            ends.append(method(Outputs(moved), teacher, batch)[name].item())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient[place].item(), abs=1e-7)

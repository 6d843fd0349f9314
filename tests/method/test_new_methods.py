"""Values of newer methods against expressions written here anew, in NumPy or plain double precision.

Nothing of the methods' own code is used on the right-hand side. Each case is checked in double precision for its value
and its gradient with respect to everything that the student says, and that gradient by finite differences of the
expression.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from kdbench.method.contract import Batch, Field, InputSpec, Method, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.suite.plugins import load_methods

load_methods()
PICTURES, CLASSES = 6, 5
TARGET = torch.tensor([0, 3, 1, 4, 3, 2])
Expression = Callable[[dict[str, Tensor]], Tensor]


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.from_numpy(scale * np.random.default_rng(seed).standard_normal(shape))


def batch(progress: float = 1.0) -> Batch:
    return Batch(torch.zeros(0), TARGET, torch.arange(PICTURES), torch.tensor(progress, dtype=torch.float64))


def made(name: str, student: Outputs, teacher: Outputs, **settings: Any) -> Method:
    method = METHODS[name](**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        method.build(student, teacher, Task(CLASSES, 40, InputSpec((Field("images", (3, 4, 4)),))))
    return method.double().train()


def total(method: Method, student: Outputs, teacher: Outputs, progress: float = 1.0) -> Tensor:
    return torch.stack(list(method(student, teacher, batch(progress)).values())).sum()


def agree(loss: Tensor, arrays: dict[str, Tensor], expression: Expression) -> None:
    """`loss` and its gradients for `arrays`, leaves of the student's outputs, against the expression's."""
    own = {name: x.detach().clone().requires_grad_() for name, x in arrays.items()}
    value = expression(own)
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(value.item(), rel=1e-7)  # shares of the training are in single precision
    found = torch.autograd.grad(loss, list(arrays.values()))
    expected = torch.autograd.grad(value, list(own.values()))
    for name, a, b in zip(arrays, found, expected, strict=True):
        assert b.any(), name
        torch.testing.assert_close(a, b, rtol=2e-7, atol=1e-8 * b.abs().max().item())
    differences(expression, {name: x.detach() for name, x in own.items()}, dict(zip(arrays, found, strict=True)))


def differences(expression: Expression, arrays: dict[str, Tensor], gradients: dict[str, Tensor]) -> None:
    """Along one random direction of each array."""
    step = 1e-5
    for seed, (name, x) in enumerate(arrays.items(), 50):
        along = draw(*x.shape, seed=seed)
        ends = [expression({**arrays, name: x + sign * step * along}).item() for sign in (1, -1)]
        slope = (gradients[name] * along).sum().item()
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=2e-5, abs=1e-6)


def leaves(**arrays: Tensor) -> dict[str, Tensor]:
    return {name: x.requires_grad_() for name, x in arrays.items()}


def p_of(logits: Tensor, temperature: float = 1.0) -> Tensor:
    powers = torch.exp(logits / temperature)
    return powers / powers.sum(-1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row."""
    return (p * (torch.log(p) - torch.log(q))).sum(-1)


S, T = draw(PICTURES, CLASSES, seed=1, scale=2), draw(PICTURES, CLASSES, seed=2, scale=3)
S2, T2 = draw(PICTURES, CLASSES, seed=3, scale=2), draw(PICTURES, CLASSES, seed=4, scale=3)


@pytest.mark.parametrize(("alpha", "temperature", "progress"), [(34.0, 4.0, 1.0), (11.0, 2.0, 0.05)])
def test_luminet(alpha: float, temperature: float, progress: float) -> None:
    arrays = leaves(s=S.clone())
    method = made("luminet", Outputs(S), Outputs(T), alpha=alpha, temperature=temperature)

    def expression(x: dict[str, Tensor]) -> Tensor:
        s, t = x["s"], T
        perceived = []
        for z in (s, t):
            mean = z.sum(0) / PICTURES
            variance = ((z - mean) ** 2).sum(0) / PICTURES
            perceived.append((z - mean) / torch.sqrt(variance + 1e-5))
        ramp = min(progress * 240 / 20, 1)
        rows = kl(p_of(perceived[1], temperature), p_of(perceived[0], temperature))
        return ramp * alpha**2 * rows.sum() / PICTURES

    agree(total(method, Outputs(arrays["s"]), Outputs(T), progress), arrays, expression)


@pytest.mark.parametrize(("alpha", "beta"), [(0.8, 0.3), (0.5, 0.5), (1.2, -0.4), (2.0, 1.0)])
def test_abkd(alpha: float, beta: float) -> None:
    arrays = leaves(s=S.clone())
    method = made("abkd", Outputs(S), Outputs(T), alpha=alpha, beta=beta, temperature=4.0)

    def expression(x: dict[str, Tensor]) -> Tensor:
        p, q = p_of(T, 4), p_of(x["s"], 4)
        inner = (
            p**alpha * q**beta
            - alpha / (alpha + beta) * p ** (alpha + beta)
            - beta / (alpha + beta) * q ** (alpha + beta)
        )
        return -(inner.sum() / PICTURES) / (alpha * beta)

    agree(total(method, Outputs(arrays["s"]), Outputs(T)), arrays, expression)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.0, 1.0), (0.7, -0.7), (0.0, 0.0), (0.6, 0.0)])
def test_abkd_is_continuous_at_its_limits(alpha: float, beta: float) -> None:
    exact = total(made("abkd", Outputs(S), Outputs(T), alpha=alpha, beta=beta), Outputs(S), Outputs(T))
    near = [
        total(made("abkd", Outputs(S), Outputs(T), alpha=alpha + a, beta=beta + b), Outputs(S), Outputs(T)).item()
        for a, b in ((1e-5, 2e-5), (-1e-5, -2e-5))
    ]
    assert exact.item() == pytest.approx(np.mean(near), rel=1e-4)


def test_abkd_is_kl_in_both_directions_at_the_corners() -> None:
    p, q = p_of(T, 4), p_of(S, 4)
    for (alpha, beta), expected in {(1.0, 0.0): kl(p, q), (0.0, 1.0): kl(q, p)}.items():
        method = made("abkd", Outputs(S), Outputs(T), alpha=alpha, beta=beta)
        assert total(method, Outputs(S), Outputs(T)).item() == pytest.approx(expected.mean().item(), rel=1e-12)


def test_tekap() -> None:
    arrays = leaves(s=S.clone())
    method = made("tekap", Outputs(S), Outputs(T))
    noise = draw(3, PICTURES, CLASSES, seed=9)
    method.draw = lambda logits: noise

    def expression(x: dict[str, Tensor]) -> Tensor:
        q = p_of(x["s"], 4)
        loss = kl(p_of(T, 4), q).mean()
        for e in noise:
            loss = loss + 0.8 * kl(p_of(0.9 * T + 0.1 * e, 4), q).mean()
        return 16 * loss

    agree(total(method, Outputs(arrays["s"]), Outputs(T)), arrays, expression)
    drawn = made("tekap", Outputs(S), Outputs(T), views=200).draw(T)
    assert drawn.shape == (200, PICTURES, CLASSES)
    assert abs(drawn.mean().item()) < 0.05
    assert drawn.std().item() == pytest.approx(1, abs=0.05)


def test_crld() -> None:
    arrays = leaves(s=S.clone(), s2=S2.clone())
    student = Outputs(arrays["s"], views={"second": Outputs(arrays["s2"])})
    teacher = Outputs(T, views={"second": Outputs(T2)})
    method = made("crld", student, teacher, sure=0.8, sure_second=0.6)
    sure = [[max(row) >= least for row in p_of(x).tolist()] for x, least in ((T, 0.8), (T2, 0.6))]
    assert all(0 < sum(mask) < PICTURES for mask in sure)  # both masks matter

    def expression(x: dict[str, Tensor]) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for b in range(PICTURES):
            p, p2, q, q2 = (p_of(z[b], 4) for z in (T, T2, x["s"], x["s2"]))
            if sure[0][b]:
                loss = loss + 2 * 16 * (kl(p, q) + kl(p2, q2))
            if sure[1][b]:
                loss = loss + 0.5 * 16 * (kl(p, q2) + kl(p2, q))
        return loss / PICTURES

    agree(total(method, student, teacher), arrays, expression)


def heard(**outputs: Any) -> Callable[[int], Any]:
    """One pass over the pictures in two batches, the second half first: what `prepare` is given."""
    halves = (slice(3, 6), slice(0, 3))

    def cut(value: Any, part: slice) -> Any:
        return tuple(v[part] for v in value) if isinstance(value, tuple) else value[part]

    def epoch(number: int) -> Any:
        for part in halves:
            said = {name: cut(value, part) for name, value in outputs.items()}
            logits = said.pop("logits", T[part])
            yield Outputs(logits, **said), Batch(torch.zeros(0), TARGET[part], torch.arange(6)[part])

    return epoch


@pytest.mark.parametrize("scale", [0.3, 3.0])  # the student's embeddings are the shorter ones; the longer ones
def test_nd(scale: float) -> None:
    s, t = draw(PICTURES, 7, seed=5, scale=scale), draw(PICTURES, 7, seed=6)
    arrays = leaves(s=s)
    teacher = Outputs(T, embedding=t)
    method = made("nd", Outputs(S, embedding=s), teacher)
    method.prepare(heard(embedding=t))
    means = [t[k == TARGET].mean(0) for k in range(CLASSES)]

    def expression(x: dict[str, Tensor]) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for b, k in enumerate(TARGET.tolist()):
            lengths = torch.sqrt((x["s"][b] ** 2).sum()), torch.sqrt((t[b] ** 2).sum())
            direction = means[k] / torch.sqrt((means[k] ** 2).sum())
            loss = loss + 1 - (x["s"][b] * direction).sum() / max(lengths)
        return loss / PICTURES

    agree(total(method, Outputs(S, embedding=arrays["s"]), teacher), arrays, expression)


def test_nd_between_widths() -> None:
    s, t = draw(PICTURES, 4, seed=5), draw(PICTURES, 7, seed=6)
    arrays = leaves(s=s)
    teacher = Outputs(T, embedding=t)
    method = made("nd", Outputs(S, embedding=s), teacher, drop=0.0)
    method.prepare(heard(embedding=t))
    weight, bias = method.embed[2].weight.detach(), method.embed[2].bias.detach()
    sums = torch.stack([t[k == TARGET].sum(0) for k in range(CLASSES)])

    def expression(x: dict[str, Tensor]) -> Tensor:
        mean = x["s"].sum(0) / PICTURES
        normed = (x["s"] - mean) / torch.sqrt(((x["s"] - mean) ** 2).sum(0) / PICTURES + 1e-5)
        mapped = normed @ weight.T + bias
        length = torch.maximum((mapped**2).sum(1), (t**2).sum(1)).sqrt()
        centre = sums[TARGET]
        return (1 - (mapped * centre).sum(1) / (centre**2).sum(1).sqrt() / length).mean()

    agree(total(method, Outputs(S, embedding=arrays["s"]), teacher), arrays, expression)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 5), (5, 3), (4, 4)])
def test_vkd(ours: int, theirs: int) -> None:
    s, t = draw(PICTURES, ours, 2, 3, seed=5, scale=2), draw(PICTURES, theirs, 2, 2, seed=6)
    arrays = leaves(s=s)
    teacher = Outputs(T, features=(t,))
    method = made("vkd", Outputs(S, features=(s,)), teacher)
    p = method.projection().detach()
    assert p.shape == (theirs, ours)
    gram = p.T @ p if ours <= theirs else p @ p.T
    torch.testing.assert_close(gram, torch.eye(min(ours, theirs)).double())

    def expression(x: dict[str, Tensor]) -> Tensor:
        a = x["s"].sum((2, 3)) / 6 @ p.T
        b = t.sum((2, 3)) / 4
        centred = b - b.sum(1, keepdim=True) / theirs
        b = centred / torch.sqrt((centred**2).sum(1, keepdim=True) / theirs + 1e-5)
        gap = torch.abs(a - b)
        return torch.where(gap < 1, gap**2 / 2, gap - 0.5).sum() / a.numel()

    agree(total(method, Outputs(S, features=(arrays["s"],)), teacher), arrays, expression)


def test_vkd_projection_is_smooth_in_its_weight() -> None:
    """No sign may jump where LAPACK's does: along a line of weights the map moves as little as the weight."""
    method = made("vkd", Outputs(S, features=(draw(2, 3, 2, 2),)), Outputs(T, features=(draw(2, 5, 2, 2),)))
    start, end = draw(5, 3, seed=1), draw(5, 3, seed=2)
    found = []
    for share in np.linspace(0, 1, 2001):
        with torch.no_grad():
            method.weight.copy_(start + share * (end - start))
        found.append(method.projection().detach())
    steps = [(b - a).abs().max().item() for a, b in pairwise(found)]
    assert max(steps) < 0.05


def cka(x: np.ndarray, y: np.ndarray) -> float:
    """By the definition: normalised HSIC with the linear kernel and the centring matrix."""
    centring = np.eye(len(x)) - 1 / len(x)
    k, l = x @ x.T, y @ y.T  # noqa: E741

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.trace(a @ centring @ b @ centring))

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def sinkhorn(q: np.ndarray, p: np.ndarray, cost: np.ndarray, entropy: float, iterations: int) -> float:
    """One picture; classes one by one."""
    kernel = np.exp(-cost / entropy)
    u = np.full(len(q), 1 / len(q))
    for _ in range(iterations):
        v = p / (kernel.T @ u + 1e-8)
        u = q / (kernel @ v + 1e-8)
    plan = u[:, None] * kernel * v
    return float((plan * cost).sum())


def classes_alike(x: np.ndarray) -> np.ndarray:
    """CKA of [K, n, D], every pair by itself."""
    return np.array([[cka(a, b) for b in x] for a in x])


@pytest.mark.parametrize("shape", [(4, 3, 2), (4, 8, 2), (4, 3, 6)])  # both ways to compute it
def test_linear_cka(shape: tuple[int, int, int]) -> None:
    module = __import__(METHODS["wkd_l"].__module__, fromlist=["linear_cka"])
    x = draw(*shape, seed=3) + 2
    np.testing.assert_allclose(module.linear_cka(x).numpy(), classes_alike(x.numpy()), rtol=1e-9)


def test_wkd_l_compares_pictures_of_two_classes_in_the_order_of_their_numbers() -> None:
    module = __import__(METHODS["wkd_l"].__module__, fromlist=["by_class"])
    target, index = torch.tensor([1, 0, 1, 3, 0, 1]), torch.tensor([5, 4, 0, 2, 1, 3])
    samples = index[:, None, None] + torch.tensor(
        [[[0.0], [0.5]]]
    )  # a picture's two samples: its number, and half more
    found = module.by_class([(samples[:4], target[:4], index[:4]), (samples[4:], target[4:], index[4:])], 4)
    assert found.squeeze(-1).tolist() == [[1, 1.5], [0, 0.5], [0, 0], [2, 2.5]]


@pytest.mark.parametrize("progress", [0.3, 0.8])
def test_wkd_l(progress: float) -> None:
    arrays = leaves(s=S.clone())
    teacher = Outputs(T)
    method = made("wkd_l", Outputs(S), teacher, gamma=3.0, temperature=2.0, sharpness=1.5)
    # The smallest class has one picture, whose centred samples are 0: a cost is set here instead of prepared.
    distance = np.abs(np.subtract.outer(np.arange(CLASSES), np.arange(CLASSES))) / CLASSES
    cost = 1 - np.exp(-1.5 * distance)
    method.cost = torch.from_numpy(cost)
    decay = 1.0 if progress < 0.625 else (1 + math.cos(math.pi * (progress - 0.625) / 0.375)) / 2

    def expression(x: dict[str, Tensor]) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for b, y in enumerate(TARGET.tolist()):
            others = [k for k in range(CLASSES) if k != y]
            loss = loss - p_of(T[b])[y] * torch.log(p_of(x["s"][b])[y])
            q, p = p_of(x["s"][b, others], 2), p_of(T[b, others], 2)
            c = torch.from_numpy(cost[np.ix_(others, others)] + 1e-8)
            kernel = torch.exp(-c / 0.05)
            u = torch.full((4,), 1 / 4).double()
            for _ in range(10):
                v = p / (kernel.T @ u + 1e-8)
                u = q / (kernel @ v + 1e-8)
            loss = loss + 3 * decay * (u[:, None] * kernel * v * c).sum()
            by_numpy = sinkhorn(q.detach().numpy(), p.numpy(), c.numpy(), 0.05, 10)
            assert (u[:, None] * kernel * v * c).sum().item() == pytest.approx(by_numpy, rel=1e-12)
        return loss / PICTURES

    agree(total(method, Outputs(arrays["s"]), teacher, progress), arrays, expression)


def test_wkd_l_comes_near_the_wasserstein_distance() -> None:
    """At the default entropy, with many iterations: near the linear programme's optimum."""
    module = __import__(METHODS["wkd_l"].__module__, fromlist=["transport"])
    q, p = p_of(draw(1, CLASSES, seed=1)), p_of(draw(1, CLASSES, seed=2))
    points = draw(CLASSES, 2, seed=3)
    cost = torch.cdist(points, points)
    cost = 0.6 * cost / cost.max()  # as 1 - 1/e, the largest there is, with the default entropy
    found = module.transport(q, p, cost, torch.zeros(1, CLASSES, dtype=torch.bool), 0.05, 2000).item()
    rows = np.kron(np.eye(CLASSES), np.ones(CLASSES))
    columns = np.kron(np.ones(CLASSES), np.eye(CLASSES))
    best = linprog(cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([q[0], p[0]])).fun
    assert best < found * (1 + 1e-4)
    assert found == pytest.approx(best, rel=0.1)


def test_wkd_l_maps_prepares_its_cost_from_all_positions() -> None:
    maps = draw(PICTURES, 3, 2, 2, seed=7)
    teacher = Outputs(T, features=(draw(PICTURES, 2, 4, 4), maps))
    method = made("wkd_l_maps", Outputs(S), teacher, sharpness=1.0)
    method.prepare(heard(features=teacher.features))
    first = [TARGET.tolist().index(k) for k in range(CLASSES)]  # classes have one or two pictures: one counts
    samples = maps.numpy()[first].reshape(CLASSES, 3, 4).transpose(0, 2, 1)
    np.testing.assert_allclose(method.cost.numpy(), 1 - np.exp(-(1 - classes_alike(samples))), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("grid", "progress"), [(1, 0.2), (2, 0.2), (2, 0.9)])
def test_wkd_f(grid: int, progress: float) -> None:
    s, t = draw(PICTURES, 2, 3, 5, seed=5), draw(PICTURES, 4, 3, 5, seed=6)
    arrays = leaves(s=s)
    teacher = Outputs(T, features=(t,))
    method = made("wkd_f", Outputs(S, features=(s,)), teacher, ratio=3.0, grid=grid)
    weight, bias = (x.detach() for x in method.regressor.conv.parameters())
    decay = 1.0 if progress < 0.625 else (1 + math.cos(math.pi * (progress - 0.625) / 0.375)) / 2
    windows = (
        {1: [slice(0, 3)], 2: [slice(0, 2), slice(1, 3)]}[grid],
        {1: [slice(0, 5)], 2: [slice(0, 3), slice(2, 5)]}[grid],
    )

    def expression(x: dict[str, Tensor]) -> Tensor:
        y = torch.einsum("bihw,oi->bohw", x["s"], weight[:, :, 0, 0]) + bias[:, None, None]
        mean = y.sum((0, 2, 3), keepdim=True) / (PICTURES * 15)
        variance = ((y - mean) ** 2).sum((0, 2, 3), keepdim=True) / (PICTURES * 15)
        y = torch.clamp((y - mean) / torch.sqrt(variance + 1e-5), min=0)
        loss = torch.zeros((), dtype=torch.float64)
        for high in windows[0]:
            for wide in windows[1]:
                a, b = (z[:, :, high, wide].flatten(2) for z in (y, t))
                n = a.shape[2]
                means = a.sum(2) / n, b.sum(2) / n
                stds = [
                    torch.sqrt(((z - m[..., None]) ** 2).sum(2) / (n - 1) + 1e-5)
                    for z, m in zip((a, b), means, strict=True)
                ]
                loss = loss + 3 * ((means[0] - means[1]) ** 2).sum() + ((stds[0] - stds[1]) ** 2).sum()
        return decay * loss / (PICTURES * grid**2)

    agree(total(method, Outputs(S, features=(arrays["s"],)), teacher, progress), arrays, expression)


def heads(number: int, seed: int, width: int, layers: int = 2) -> tuple[Tensor, ...]:
    return tuple(draw(PICTURES, number, 3, width, seed=seed + i) for i in range(layers))


@pytest.mark.parametrize("mode", ["matched", "mean"])
def test_attention_scores(mode: str) -> None:
    own = 2 if mode == "matched" else 4
    q, k = heads(own, 10, 3), heads(own, 20, 3)
    arrays = leaves(q0=q[0], q1=q[1], k0=k[0], k1=k[1])
    teacher = Outputs(T, queries=heads(2, 30, 5), keys=heads(2, 40, 5))
    student = Outputs(S, queries=(arrays["q0"], arrays["q1"]), keys=(arrays["k0"], arrays["k1"]))
    method = made("attention_scores", student, teacher, layers=(0.5, 1.0), heads=mode)

    def expression(x: dict[str, Tensor]) -> Tensor:
        loss = torch.zeros((), dtype=torch.float64)
        for layer in (0, 1):
            s = torch.einsum("bhld,bhmd->bhlm", x[f"q{layer}"], x[f"k{layer}"]) / math.sqrt(3)
            t = torch.einsum("bhld,bhmd->bhlm", teacher.queries[layer], teacher.keys[layer]) / math.sqrt(5)
            if mode == "mean":
                s, t = s.sum(1) / own, t.sum(1) / 2
            loss = loss + ((s - t) ** 2).sum() / s.numel()
        return loss

    agree(total(method, student, teacher), arrays, expression)


@pytest.mark.parametrize(("number", "of"), [(None, ("values",)), (3, ("queries", "keys", "values"))])
def test_value_relations(number: int | None, of: tuple[str, ...]) -> None:
    names = ("queries", "keys", "values")
    arrays = leaves(**{name: heads(2, seed, 3, 1)[0] for seed, name in enumerate(of, 10)})
    theirs = {name: heads(2 if number is None else 4, seed, 6) for seed, name in zip((30, 40, 50), names, strict=True)}
    teacher = Outputs(T, **theirs)
    student = Outputs(
        S, **{name: (draw(PICTURES, 2, 3, 3), arrays.get(name, draw(PICTURES, 2, 3, 3))) for name in names}
    )
    method = made("value_relations", student, teacher, of=of, heads=number)

    def related(x: Tensor) -> Tensor:
        """[B, heads, L, d] -> [B, heads, L, L], the heads joined and cut anew where a number is given."""
        if number is not None:
            joined = torch.cat([x[:, h] for h in range(x.shape[1])], -1)
            width = joined.shape[-1] // number
            x = torch.stack([joined[..., i * width : (i + 1) * width] for i in range(number)], 1)
        return p_of(torch.einsum("bhld,bhmd->bhlm", x, x) / math.sqrt(x.shape[-1]))

    def expression(x: dict[str, Tensor]) -> Tensor:
        losses = [kl(related(theirs[name][-1]), related(x[name])) for name in of]
        return torch.stack([loss.sum() / loss.numel() for loss in losses]).sum()

    agree(total(method, student, teacher), arrays, expression)

"""Padding changes nothing: logits, losses and gradients of a batch that is padded to twice its length are the same."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from kdbench.method.contract import Batch, Inapplicable, Outputs, Task
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.nets import Net, build_net
from kdbench.seeding import seeded
from kdbench.suite.objectives import objective
from kdbench.suite.plugins import load_methods
from kdbench.suite.spec import ModelSpec
from kdbench.text.corpus import Tokens, unread
from kdbench.text.nets import ENCODERS
from kdbench.train.objective import Objective, blank_outputs, needs_of, own_needs, student_needs_of

load_methods()
pytestmark = pytest.mark.usefixtures("one_thread")
VOCABULARY, LENGTH, CLASSES = 300, 16, 3
LENGTHS = torch.tensor([8, 5, 2, 7])
SMALL = {"layers": 3, "width": 16, "heads": 2, "dropout": 0.0}
NETS: dict[str, dict[str, Any]] = {
    **{kind: {"model": kind, **SMALL} for kind in ENCODERS},
    "narrow": {"model": "bert", **SMALL, "layers": 2, "width": 8},
    "bilstm": {"model": "bilstm", "width": 8, "hidden": 8, "dropout": 0.0},
}
# What reads sequences, by what the issue of each paper says; all others need logits or embeddings, or say why not.
BY_MASK = {"hidden", "hidden_cosine", "patient", "embedding_layer", "attn", "attention_scores", "value_relations", "sp"}
VIEWS = {"second", "mixed", "plain"}


def task() -> Task:
    whole = unread(tuple("abc"), Tokens(vocabulary=VOCABULARY, length=LENGTH), (40, 40))
    return replace(whole, targets=torch.arange(40) % CLASSES)


@cache
def net(name: str, seed: int = 0) -> Net:
    made = build_net(ModelSpec(**NETS[name]), task(), seed)
    with torch.no_grad():
        for parameter in made.parameters():  # as strong as after some training: attention is not even
            if parameter.ndim > 1:
                parameter *= 4
    return made.double().eval()


def batch(places: int) -> Batch:
    with seeded("texts"):
        ids = torch.randint(5, VOCABULARY, (len(LENGTHS), 8))
    padded = torch.zeros(len(LENGTHS), places, dtype=torch.int64)
    padded[:, :8] = ids
    mask = torch.arange(places) < LENGTHS[:, None]
    inputs = {"ids": padded.masked_fill(~mask, 0), "mask": mask.long()}
    index = torch.arange(len(LENGTHS))
    return Batch(inputs, index % CLASSES, index, torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("name", NETS)
def test_logits_and_embedding(name: str) -> None:
    short, long = (net(name)(batch(places).inputs, {"embedding"}) for places in (8, 16))
    torch.testing.assert_close(short.logits, long.logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(short.embedding, long.embedding, rtol=1e-9, atol=1e-9)
    assert short.logits.std(0).min() > 1e-3, "all texts are alike to it: nothing was compared"


@pytest.mark.parametrize("name", ["bert", "distilbert", "bilstm"])
def test_a_text_does_not_depend_on_its_neighbours(name: str) -> None:
    whole = net(name)(batch(8).inputs).logits
    for place, length in enumerate(LENGTHS):
        alone = {key: x[place : place + 1, :length] for key, x in batch(8).inputs.items()}
        torch.testing.assert_close(net(name)(alone).logits[0], whole[place], rtol=1e-9, atol=1e-9)


def built(name: str, teacher: str, student: str) -> Objective:
    """Raises Inapplicable."""
    nets = ((net(student), student_needs_of([name])), (net(teacher, 1), needs_of([name])))
    blanks = [blank_outputs(one, needs, task(), "cpu") for one, needs in nets]
    made = Objective(objective({name: 1.0}))
    made.build(*blanks, task(), 0)
    return made.double().eval()  # no drop-out


def why_not(name: str, teacher: str, student: str) -> str:
    """Empty where the method applies."""
    try:
        built(name, teacher, student)
    except Inapplicable as reason:
        return str(reason)
    return ""


def loss_and_gradients(name: str, teacher: str, student: str, places: int) -> tuple[Tensor, list[Any]]:
    made, given = built(name, teacher, student), batch(places)
    with torch.no_grad():
        teacher_out = net(teacher, 1)(given.inputs, own_needs(needs_of([name])) or {"logits"})
    made.prepare(lambda number: iter([(teacher_out, given)]), 0)
    student_out = net(student)(given.inputs, own_needs(student_needs_of([name])))
    with seeded("step"):
        *sums, _ = made(student_out, teacher_out, given)
    loss = torch.stack(sums).sum()
    params = [*net(student).parameters(), *(p for p in made.parameters() if p.requires_grad)]
    return loss, list(torch.autograd.grad(loss, params, allow_unused=True))


@pytest.mark.parametrize(("teacher", "student"), [("bert", "narrow"), ("bert", "distilbert"), ("bert", "bilstm")])
@pytest.mark.parametrize("name", list(METHODS))
def test_losses_and_gradients(name: str, teacher: str, student: str) -> None:
    needs = needs_of([name]) | student_needs_of([name])
    if is_rule(METHODS[name]) or (VIEWS | {"peer"}) & needs:
        pytest.skip("reads other views of a batch, or gradients")
    if reason := why_not(name, teacher, student):
        assert len(reason) > 10
        assert student == "bilstm" or name not in BY_MASK, reason
        pytest.skip(reason)
    short, long = (loss_and_gradients(name, teacher, student, places) for places in (8, 16))
    assert short[0].isfinite()
    torch.testing.assert_close(short[0], long[0], rtol=1e-6, atol=1e-9)
    assert any(g is not None and g.any() for g in short[1])
    largest = max(g.abs().max().item() for g in short[1] if g is not None)
    for a, b in zip(short[1], long[1], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8 * max(largest, 1))


def test_the_methods_that_read_sequences_are_these() -> None:
    plain = {"logits", "embedding", "classifier", *VIEWS, "peer"}
    others = [name for name in METHODS if (needs_of([name]) | student_needs_of([name])) - plain]
    assert {name for name in others if not why_not(name, "bert", "narrow")} == BY_MASK


def test_what_a_mask_hides_is_zero_and_without_gradient() -> None:
    given = batch(8)
    out: Outputs = net("bert")(given.inputs, {"features", "stem", "attention"})
    hidden = given.inputs["mask"] == 0
    assert out.mask is not None
    assert out.mask.equal(~hidden)
    for state in (*out.features, out.stem):
        assert state is not None
        assert not state[hidden].any()
        assert state[~hidden].any(1).all()
    for attention in out.attention:
        assert not attention.transpose(2, 3).transpose(1, 2)[hidden].any()
        torch.testing.assert_close(attention.sum(3), torch.ones_like(attention[..., 0]))

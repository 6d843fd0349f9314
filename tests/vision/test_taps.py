"""Queries, keys and values as a transformer's fused attention is called with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.attention import ATTENTION, AttentionTap
from kdbench.method.contract import Field, InputSpec, Task
from kdbench.nets import build_net
from kdbench.suite.spec import ModelSpec


def heard(need: str, query: Tensor, key: Tensor, value: Tensor, **how: float) -> Tensor:
    with AttentionTap(ATTENTION[need]) as tap:
        F.scaled_dot_product_attention(query, key, value, **how)
    return tap.last()


@pytest.mark.parametrize("how", [{}, {"scale": 0.3}])
def test_scores_of_queries_and_keys_are_what_the_softmax_takes(how: dict[str, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    found = {need: heard(need, q, k, v, **how) for need in ATTENTION}
    scores = found["queries"] @ found["keys"].transpose(-2, -1) / 4**0.5
    torch.testing.assert_close(scores.softmax(-1), found["attention"])
    torch.testing.assert_close(found["attention"] @ found["values"], F.scaled_dot_product_attention(q, k, v, **how))


def test_a_vit_gives_them_all_in_one_forward_and_its_logits_stay_the_same() -> None:
    options = {"img_size": 16, "patch_size": 4, "depth": 2, "embed_dim": 12, "num_heads": 3}
    task = Task(4, 10, InputSpec((Field("images", (3, 16, 16)),)))
    net = build_net(ModelSpec(model="vit_tiny_patch16_224", **options), task, 0).eval()
    images = task.inputs.random(5)
    with torch.no_grad():
        outputs = net(images, {"attention", "queries", "keys", "values"})
        assert torch.equal(net(images).logits, outputs.logits)
    assert [x.shape for x in outputs.values] == [(5, 3, 17, 4)] * 2  # 16 patches and the class token
    for q, k, a in zip(outputs.queries, outputs.keys, outputs.attention, strict=True):
        torch.testing.assert_close((q @ k.transpose(-2, -1) / 2).softmax(-1), a)

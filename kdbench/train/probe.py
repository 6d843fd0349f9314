"""What a net's embedding is worth: a linear probe on labelled examples, for nets that have no classes or others.

The probe is a multinomial logistic regression (L-BFGS, L2 with C = 1) on standardised embeddings of the training set,
without augmentation, as is usual for pretrained nets (Kornblith et al. 2019, https://arxiv.org/abs/1805.08974). An
example whose label is below 0 has none and is left out.
"""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from kdbench.data import Split, Splits
from kdbench.method.contract import Batch, Inapplicable, Inputs, Outputs
from kdbench.nets import Net
from kdbench.train.evaluation import BATCH, autocast, batch_size
from kdbench.train.in_turn import Spoilt, in_turn, without

MOST_ITERATIONS = 1000


class Probed(nn.Module):
    """A net whose logits are what a probe makes of its embedding."""

    def __init__(self, net: nn.Module, probe: nn.Module) -> None:
        super().__init__()
        self.net, self.probe = net, probe
        self.train(net.training)  # who leaves it in the mode it came in must not wake a net that is in eval mode

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        outputs: Outputs = self.net(inputs, {*needs, "embedding"})
        assert outputs.embedding is not None
        return replace(outputs, logits=self.probe(outputs.embedding.float()))


@torch.no_grad()
def embeddings(nets: Sequence[nn.Module], split: Split, precision: str) -> list[Tensor | Exception]:
    """Of every net: those of all examples in their order, [N, D] fp32 on the CPU, in one pass; where a net raised, its
    error. Nets stay in the mode that they are in. Raises what the data do.
    """
    found: list[list[Tensor]] = [[] for _ in nets]

    def keep(place: int, batch: Batch, embedding: Tensor) -> None:
        found[place].append(embedding)

    try:
        batches = split.in_order(batch_size(split))
        broken = in_turn(nets, batches, partial(embedding_of, precision=precision), keep)
    except Spoilt as spoilt:
        return without(spoilt, nets, lambda others: embeddings(others, split, precision))
    return [broken.get(place) or torch.cat(found[place]) for place in range(len(nets))]


def embedding_of(net: nn.Module, batch: Batch, precision: str) -> Tensor:
    """[B, D] fp32 on the CPU."""
    mode = net.training
    net.eval()
    with autocast(batch.target.device, precision):
        outputs: Outputs = net(batch.inputs, ("embedding",))
    net.train(mode)
    assert outputs.embedding is not None
    return outputs.embedding.float().cpu()


def fit_linear(x: Tensor, targets: Tensor, num_classes: int) -> nn.Linear:
    """The probe of embeddings [N, D] and labels [N] on the CPU: a layer [D] -> [K] without gradients.

    A class that has no example gets logits of -1e4. Raises ValueError where fewer than two classes have some.
    """
    from sklearn.linear_model import LogisticRegression

    labelled = targets >= 0
    x, targets = x[labelled].double(), targets[labelled]
    mean, std = x.mean(0), x.std(0).clamp(min=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the iterations were used up
        found = LogisticRegression(max_iter=MOST_ITERATIONS).fit(((x - mean) / std).numpy(), targets.numpy())
    coefficients, offsets = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
    if len(coefficients) == 1:  # of two classes scikit-learn gives the odds of the second
        coefficients, offsets = torch.cat([-coefficients, coefficients]) / 2, torch.cat([-offsets, offsets]) / 2
    layer = nn.utils.skip_init(nn.Linear, x.shape[1], num_classes).requires_grad_(False)
    layer.weight.zero_()
    layer.bias.fill_(-1e4)
    classes = torch.from_numpy(found.classes_)
    layer.weight[classes] = (coefficients / std).float()
    layer.bias[classes] = (offsets - (coefficients / std) @ mean).float()
    return layer


def layer_of(weights: dict[str, Tensor]) -> nn.Linear:
    """A probe from a file: `probe.weight` [K, D] and `probe.bias` [K]."""
    weight, bias = weights["probe.weight"], weights["probe.bias"]
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0]).requires_grad_(False)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@torch.no_grad()
def give_head(net: Net, probe: nn.Linear) -> None:
    """Put the probe in the place of the net's classifier."""
    head = net.head[0]
    head.weight.copy_(probe.weight.view_as(head.weight))
    head.bias.copy_(probe.bias)


def can_have_head(net: Net) -> None:
    """Raises Inapplicable where the net does not end in one linear layer with a bias."""
    if len(net.head) != 1 or getattr(net.head[0], "bias", None) is None:
        raise Inapplicable(
            f"can't be judged by a probe: {type(net.model).__name__} ends in no linear layer with a bias"
        )


def neighbours_of(known: Tensor, seen: Tensor, splits: Splits, count: int) -> dict[str, float]:
    """`test_knn_top1` in percent, of embeddings of the training examples [N, D] and of the test examples [M, D]: by the
    votes of the `count` nearest training examples.

    They are weighted by exp(cosine / 0.07), as in Wu et al. 2018 (https://arxiv.org/abs/1805.01978) and DINO.
    """
    bank, labels = nn.functional.normalize(known), splits.train.targets.cpu()
    bank, labels = bank[labels >= 0], labels[labels >= 0]
    found = []
    for part in nn.functional.normalize(seen).split(BATCH):
        near = (part @ bank.T).topk(min(count, len(bank)), dim=1)
        votes = torch.zeros(len(part), splits.num_classes)
        found.append(votes.scatter_add_(1, labels[near.indices], (near.values / 0.07).exp()).argmax(1))
    return {"test_knn_top1": 100 * float((torch.cat(found) == splits.test.targets.cpu()).double().mean())}


def linear_probe(net: nn.Module, split: Split, num_classes: int, precision: str) -> nn.Linear:
    """Fitted to the net's embeddings of `split`, on the device where the split's labels lie. Raises what it raises."""
    [known] = embeddings([net], split, precision)
    if isinstance(known, Exception):
        raise known
    return fit_linear(known, split.targets.cpu(), num_classes).to(split.targets.device)

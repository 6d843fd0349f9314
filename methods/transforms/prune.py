"""Structured pruning: layers with really fewer channels, by the dependency graph of Torch-Pruning."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from kdbench import Inapplicable, UserError
from kdbench.method.contract import Count
from kdbench.method.transform import Given, Reshape, register_transform, runs

Part = Annotated[float, Field(gt=0, lt=1)]
IMPORTANCES = {
    "magnitude": "GroupMagnitudeImportance",
    "bn_scale": "BNScaleImportance",
    "taylor": "GroupTaylorImportance",
}


@register_transform("prune", paper="https://arxiv.org/abs/2301.12900", year=2023)
class Prune(Reshape):
    """Take the `share` of channels (and hidden widths) of least importance out of every layer, with all that hangs on
    them. Half of the channels is about a quarter of the weights.

    `importance`: the norm of a group's weights, the scale of its batch norm (Liu et al. 2017, arXiv:1708.06519) or the
    first-order Taylor term (Molchanov et al. 2019, arXiv:1906.10771) on `examples` training examples. `over`: the share
    is taken of every layer, or of the whole net, `net`, where layers may lose unlike parts. `steps`: importance is
    asked anew after each of so many equal steps; with training in between it is a chain of `student: {from: ...}`.
    Attention layers and the residual stream of transformers and mixers keep their widths.
    """

    def __init__(
        self,
        share: Part = 0.5,
        importance: Literal["magnitude", "bn_scale", "taylor"] = "magnitude",
        over: Literal["layer", "net"] = "layer",
        steps: Count = 1,
        examples: Count = 256,
    ) -> None:
        if examples != 256 and importance != "taylor":
            raise ValueError(f"importance {importance} looks at no examples: leave them out")
        self.share, self.importance, self.over, self.steps, self.examples = share, importance, over, steps, examples

    def apply(self, model: nn.Module, given: Given) -> Any:
        """The record: Torch-Pruning's history, [layer, are these outputs?, channels] for every group."""
        library = torch_pruning()
        norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
        if self.importance == "bn_scale" and not norms:
            raise Inapplicable(f"importance bn_scale needs batch norms; {type(model).__name__} has none")
        before = sum(p.numel() for p in model.parameters())
        with quietly(model), followed(model):
            pruner = library.pruner.BasePruner(
                model,
                given.inputs.blank(2, given.device(model)),
                importance=getattr(library.importance, IMPORTANCES[self.importance])(),
                global_pruning=self.over == "net",
                pruning_ratio=self.share,
                max_pruning_ratio=max(self.share, 0.9),
                iterative_steps=self.steps,
                ignored_layers=kept(model, given),
                forward_fn=lambda _, inputs: given.logits(inputs),
            )
            for _ in range(self.steps):
                if self.importance == "taylor":
                    gradients(model, given, self.examples)
                pruner.step()
            model.zero_grad(set_to_none=True)
        if sum(p.numel() for p in model.parameters()) == before:
            raise Inapplicable(f"finds no channel that {type(model).__name__} could lose")
        runs(model, given)
        return json_of(pruner.DG.pruning_history())

    def rebuild(self, model: nn.Module, record: Any, given: Given) -> None:
        library = torch_pruning()
        with quietly(model):
            graph = library.DependencyGraph().build_dependency(
                model,
                given.inputs.blank(2, given.device(model)),
                forward_fn=lambda _, inputs: given.logits(inputs),
            )
            graph.load_pruning_history(record)


def torch_pruning() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise UserError("prune needs torch-pruning: pip install 'kdbench[compress]'") from error
    return torch_pruning


@contextmanager
def quietly(model: nn.Module) -> Iterator[None]:
    """Around Torch-Pruning: it traces with gradients, in evaluation's mode, and warns of parameters it handles well."""
    training = model.training
    model.eval()
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield
    model.train(training)


@contextmanager
def followed(model: nn.Module) -> Iterator[None]:
    """Around the graph: what it raises on code that it can't follow says so."""
    try:
        yield
    except Inapplicable:
        raise
    except (ValueError, IndexError, KeyError, AttributeError, ArithmeticError, RuntimeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise Inapplicable(f"Torch-Pruning can't follow {type(model).__name__} ({why})") from error


def kept(model: nn.Module, given: Given) -> list[nn.Module]:
    """What keeps its outputs: the classifier; attention, whose code knows heads that the graph does not; and what feeds
    a stream of tokens, which mixers turn about.
    """
    attention = [part for part in model.modules() if type(part).__name__.endswith("Attention")]
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    blocks = [
        part for part in model.modules() if hasattr(part, "fc1") and isinstance(getattr(part, "fc2", 0), nn.Linear)
    ]
    stream: list[Any] = [*convolutions, *(block.fc2 for block in blocks)] if len(convolutions) <= 1 else []
    return [*given.keep, *(layer for part in attention for layer in part.modules()), *stream]


def gradients(model: nn.Module, given: Given, examples: int) -> None:
    """Of the cross-entropy on training examples, added up in every parameter's `grad`."""
    model.zero_grad(set_to_none=True)
    for inputs, target in given.batches(examples):
        F.cross_entropy(given.logits(inputs), target, reduction="sum").backward()


def json_of(history: Any) -> list[list[Any]]:
    return [[name, bool(outputs), [int(channel) for channel in channels]] for name, outputs, channels in history]

"""A student's net with its transforms: decided from its weights, or built again in the shapes that a record tells."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data import Split
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Inapplicable, Inputs, InputSpec
from kdbench.method.kinds import CLASSES, KINDS, NUMBERS, kind_of
from kdbench.method.transform import TRANSFORMS, Given
from kdbench.nets import Net
from kdbench.seeding import derive, seeded
from kdbench.suite.steps import Step, made
from kdbench.train.unread import Hidden, hidden

Batches = Callable[[int], Iterator[tuple[Inputs, Tensor]]]
BATCH = 64  # of the examples that a transform looks at


def transformed(net: Net, steps: Iterable[Step], inputs: InputSpec, batches: Batches, seed: int = 0) -> Net:
    """`net` itself, after all of `steps`. Raises Inapplicable, also for a step that left the net as it was."""
    for step in steps:
        [(name, settings)] = step.items()
        before, given = shapes_of(net), given_of(net, inputs, batches)
        keep, count = classifiers(net, given)
        given = replace(given, keep=keep)
        try:
            with seeded("transform", name, seed):
                record = made(step).apply(net.model, given)
        except Inapplicable as reason:
            raise Inapplicable(f"{name} {reason}") from None
        if shapes_of(net) == before:
            raise Inapplicable(f"{name} left {type(net.model).__name__} as it was")
        if (left := classifiers(net, given)[1]) != count:
            raise Inapplicable(f"{name} leaves {type(net.model).__name__} {left} of its {count} logits")
        net.structure = [*net.structure, {"name": name, "settings": settings, "record": record}]
    return net


def rebuilt(net: Net, structure: Iterable[Any], inputs: InputSpec) -> Net:
    """`net`, not yet transformed, in the shapes that a record tells. Raises UserError where it does not fit."""
    for entry in structure:
        try:
            transform = TRANSFORMS[entry["name"]](**entry["settings"])
            transform.rebuild(net.model, entry["record"], given_of(net, inputs, nothing))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"the record's structure does not fit its student: {first_line(error)}") from error
        net.structure = [*net.structure, entry]
    return net


def settle(net: Net) -> None:
    """Take out of a trained net what only training needs (a quantiser's noise)."""
    for entry in net.structure:
        TRANSFORMS[entry["name"]](**entry["settings"]).settle(net.model)


def given_of(net: Net, inputs: InputSpec, batches: Batches) -> Given:
    return Given(inputs, lambda x: net(x).logits, batches)


def classifiers(net: Net, given: Given) -> tuple[tuple[nn.Module, ...], int]:
    """The layers whose outputs become the logits, and how many logits there are.

    What a net calls its head may be a guess: of those layers only the ones with as many outputs count, and the last one
    to run with so many (of a fully convolutional net it is a convolution).
    """
    ran: list[nn.Module] = []
    parts = [part for part in net.model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    hooks = [part.register_forward_hook(lambda part, *_: ran.append(part)) for part in parts]
    training = net.training
    try:
        with torch.no_grad(), seeded("classifier"):
            logits = given.logits(given.inputs.blank(2, given.device(net.eval())))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    count = logits.shape[1]
    last = [part for part in ran if outputs_of(part) == count][-1:]
    return tuple(dict.fromkeys([*(part for part in net.head if outputs_of(part) in (count, None)), *last])), count


def outputs_of(layer: Any) -> int | None:
    """None of a layer that is neither dense nor a convolution."""
    return getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)


def shapes_of(net: Net) -> list[tuple[str, torch.Size]]:
    return [(name, value.shape) for name, value in net.model.state_dict().items()]


def examples(split: Split, seed: int) -> Batches:
    """The same `n` training examples each time, drawn by `seed`, as they are in evaluation."""

    def batches(n: int) -> Iterator[tuple[Inputs, Tensor]]:
        generator = torch.Generator().manual_seed(derive("transform's examples", seed))
        chosen = torch.randperm(len(split), generator=generator)[:n]
        for batch in split[chosen.to(split.targets.device)].in_order(BATCH):
            yield batch.inputs, shown(batch.target)

    return batches


class OfNumbers(Hidden):
    """Numbers, for a transform: it would take them for classes."""

    why = "these data have numbers, and it knows classes alone"


def shown(targets: Tensor) -> Tensor:
    """What a transform may see of them."""
    return hidden(targets, OfNumbers) if kind_of(targets) is NUMBERS else targets


def stand_ins(inputs: InputSpec, num_classes: int, kind: str = CLASSES.name) -> Batches:
    """Noise in the place of examples, where only shapes are asked for and the data may not be there."""

    def batches(n: int) -> Iterator[tuple[Inputs, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        yield inputs.random(8, "cpu", generator), shown(KINDS[kind].stand_ins(torch.arange(8), num_classes))

    return batches


def nothing(n: int) -> Iterator[tuple[Inputs, Tensor]]:
    yield from ()

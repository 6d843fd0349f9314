"""A student's first weights out of its teacher's, all of them or those of chosen layers: as DistilBERT begins.

Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 2: every other layer of the teacher.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from kdbench.errors import UserError
from kdbench.nets import Net, has_weights
from kdbench.parts import names_within
from kdbench.weights import mismatch

Weights = dict[str, Tensor]  # by their names in a model
Layers = Literal["all"] | Sequence[int]  # from 0, in the order in which the student has them


def taken_from(teacher: Net, student: Net, layers: Layers, new_head: bool = False) -> Weights:
    """All weights of `student.model`: its teacher's, but its own where its classifier is a new one.

    Both nets may lie on the meta device. Raises UserError where a tensor of either has no place in the other: other
    widths, other kinds, a layer that is not there.
    """
    if teacher.fields != student.fields:
        raise UserError(f"reads {student.fields}, its teacher {teacher.fields}: it can't begin with that one's weights")
    own, given = student.model.state_dict(), teacher.model.state_dict()
    given = given if layers == "all" else renumbered(given, own, [int(layer) for layer in layers])
    if new_head:
        old = names_within(teacher.model, teacher.head) if has_weights(teacher.head) else []
        given = {name: value for name, value in given.items() if name not in old}
        given |= {name: own[name] for name in names_within(student.model, student.head)}
    if wrong := mismatch(own, given):
        raise UserError(f"can't begin with its teacher's weights: that one {wrong}")
    return given


def renumbered(given: Weights, own: Weights, layers: list[int]) -> Weights:
    """`given` with the chosen layers alone, numbered anew from 0. Raises UserError where they can't be chosen."""
    row = row_of_layers(given)
    count, places = len(numbers(given, row)), len(numbers(own, row))
    if wrong := [layer for layer in layers if layer >= count]:
        raise UserError(f"begins with layer {wrong[0]} of its teacher, which has {count} ({row[:-1]}), from 0")
    if len(set(layers)) < len(layers):
        raise UserError(f"begins with layers {layers} of its teacher: one stands there twice")
    if not places:
        raise UserError(
            f"has no {row[:-1]}, as its teacher has: nets of one kind alone can begin with layers of another"
        )
    if len(layers) != places:
        raise UserError(f"has {places} layers ({row[:-1]}), but begins with {len(layers)} of its teacher: {layers}")
    rest = {name: value for name, value in given.items() if not name.startswith(row)}
    return rest | {
        f"{row}{place}.{name.removeprefix(f'{row}{layer}.')}": value
        for place, layer in enumerate(layers)
        for name, value in given.items()
        if name.startswith(f"{row}{layer}.")
    }


def row_of_layers(weights: Weights) -> str:
    """What the names of a net's layers begin with, `bert.encoder.layer.`. Raises UserError where no one row has all."""
    alike = [row for row, members in rows_in(weights).items() if are_layers(members)]
    outermost = [row for row in alike if not any(row != other and row.startswith(other) for other in alike)]
    if len(outermost) != 1:
        found = f"; {', '.join(row[:-1] for row in outermost)} are several" if outermost else ""
        raise UserError(f"can't begin with layers of its teacher, which has no one row of layers that are alike{found}")
    return outermost[0]


def rows_in(weights: Weights) -> dict[str, dict[int, set[tuple[str, tuple[int, ...]]]]]:
    """What stands before a number in names -> of each number the tensors below it, their names and shapes."""
    found: dict[str, dict[int, set[tuple[str, tuple[int, ...]]]]] = {}
    for name, value in weights.items():
        words = name.split(".")
        for place, word in enumerate(words[:-1]):
            if word.isdigit():
                row = "".join(f"{before}." for before in words[:place])
                tensor = ".".join(words[place + 1 :]), tuple(value.shape)
                found.setdefault(row, {}).setdefault(int(word), set()).add(tensor)
    return found


def are_layers(members: dict[int, set[tuple[str, tuple[int, ...]]]]) -> bool:
    """Two or more, numbered from 0, each with the same tensors of the same shapes?"""
    first, *others = members.values()
    return bool(others) and sorted(members) == list(range(len(members))) and all(one == first for one in others)


def numbers(weights: Weights, row: str) -> set[str]:
    """Those of the members of a row."""
    return {name.removeprefix(row).split(".")[0] for name in weights if name.startswith(row)}

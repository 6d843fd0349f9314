"""How a trial comes to be: its objective built and prepared, or brought to where a checkpoint left it."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdbench.data import Splits
from kdbench.errors import UserError
from kdbench.method.contract import Batch, Inapplicable, Outputs, Task
from kdbench.method.kinds import CLASSES, needs_classes
from kdbench.nets import Net, build_net
from kdbench.seeding import derive
from kdbench.suite.cells import Cell
from kdbench.suite.spec import ModelSpec, Train
from kdbench.suite.steps import steps_of
from kdbench.train.group import ALONE, Group
from kdbench.train.labels import labelled
from kdbench.train.objective import built_objective, needs_of, prepares, student_needs_of
from kdbench.train.optim import momentum_of
from kdbench.train.transforms import examples, transformed
from kdbench.train.trial import Trial, forward_teacher, views_of
from kdbench.train.unread import Hidden, Lacking, hidden, lacks_some, unlabelled


def start_trial(
    cell: Cell,
    net: Net,
    splits: Splits,
    teacher: Net,
    device: torch.device,
    state: dict[str, Any] | None,
    between: Callable[[], None] = lambda: None,
    group: Group = ALONE,
) -> Trial:
    """`net` with the cell's objective: at the start, or where the checkpoint `state` left it. Raises Inapplicable.

    `between` is called after every batch of a preparation; what it raises ends the trial before it started.
    """
    unread = unread_of(cell, splits)
    targets = splits.train.targets.clone() if unread is None else hidden(splits.train.targets, unread)
    needs, task = needs_of(cell.methods), training_task(splits.task, cell.train, targets)
    built = built_objective(cell.phases, net.to(device), teacher, task, device, cell.seed)
    if "peer" in student_needs_of(cell.methods):
        peer = build_net(cell.student_net, task, "peer", cell.seed).to(device)
        steps = steps_of(cell.make.transforms or ())
        peer = transformed(peer, steps, task.inputs, examples(splits.train, cell.seed), cell.seed)
        built.peer = peer.to(memory_format=torch.channels_last)
    trial = Trial(net, built, cell.train, device, cell.seed, group)
    trial.key, built.unlabelled, built.partly = cell.key, unread is Hidden, unread is Lacking
    if state is not None:
        trial.load_state(state)
    elif any(prepares(term.method) for term in built.all_terms()):
        start = time.perf_counter()
        seen = partial(teacher_epoch, teacher, needs, splits, cell.train, cell.seed, between=between, group=group)
        built.prepare(lambda epoch: unlabelled(seen(epoch), unread) if unread else seen(epoch), cell.seed)
        trial.seconds["prepare"] = time.perf_counter() - start
    return trial


def unread_of(cell: Cell, splits: Splits) -> type[Hidden] | None:
    """Which labels its methods may not read: all by its row, or those of data of which some have none; None: all may.

    Raises Inapplicable where there are no labels at all to learn from.
    """
    if cell.labels:
        return Hidden
    if not lacks_some(splits.train.targets):
        return None
    if bool(splits.kind.lacks(splits.train.targets).all()):
        raise Inapplicable("no example of these data has a label: a row must say `labels: none`")
    return Lacking


def training_task(task: Task, train: Train, targets: Tensor) -> Task:
    """The task with what a method may know of how it is trained. Raises Inapplicable where its labels can't be had so.

    Of numbers `targets` are None: methods look there for the examples of one class.
    """
    needs_classes(task, ["label_smoothing"] * (train.label_smoothing is not None) + ["mixup"] * train.mixes)
    return replace(
        task,
        batch_size=train.batch_size,
        targets=targets if task.kind == CLASSES.name else None,
        momentum=momentum_of(train),
        accumulate=train.accumulate or 1,
        mixed=train.mixes,
    )


def teacher_epoch(
    teacher: Net,
    needs: frozenset[str],
    splits: Splits,
    train: Train,
    seed: int,
    number: int,
    between: Callable[[], None],
    group: Group = ALONE,
) -> Iterator[tuple[Outputs, Batch]]:
    """A pass over the training set with the teacher's outputs, for `Method.prepare`."""
    for batch in splits.train.epoch(train, derive("prepare", seed), number, views=views_of(needs)):
        batch = labelled(batch, train, splits.num_classes)
        yield forward_teacher(teacher, batch, needs, train.precision, group), batch
        between()


def check_logits(given: Outputs, spec: ModelSpec, task: Task) -> None:
    """Raises UserError where a net doesn't give one number for each class: logits [B, K]."""
    own = getattr(spec, "num_classes", None)  # a teacher's of other classes, or of none
    logits, count = given.logits, task.num_classes if own is None else own
    if not isinstance(logits, Tensor):
        raise UserError(f"{spec.short} gives a {type(logits).__name__}; its forward must return logits [B, {count}]")
    if count and (logits.ndim != 2 or logits.shape[1] != count):
        shape = ", ".join(["B", *map(str, logits.shape[1:])])
        raise UserError(f"{spec.short} gives logits [{shape}]; here they must be [B, {count}] (`task.num_classes`)")

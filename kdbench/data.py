"""Data sets of any domain: the parts of one as batches, and the registry through which they come in.

A domain (`vision/`, a plugin) gives a data set as `Splits` of things that are a `Split`: batches in an order that
depends on (seed, epoch) alone. Nothing here knows what an example looks like.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from kdbench.batching import Batching, parts, steps_per_epoch
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Batch, Field, InputSpec, Task
from kdbench.method.inputs import Inputs, map_inputs
from kdbench.method.kinds import CLASSES, NUMBERS, Kind, kind_of
from kdbench.method.metric import Metric, metric_for
from kdbench.plain import harmless
from kdbench.registry import Registry
from kdbench.seeding import derive

Function = TypeVar("Function", bound=Callable[..., Any])


class Split(Protocol):
    """One part of a data set. `targets`: [N] int64, of numbers float32, on the device where batches come to lie.

    One that takes long to read may have `part(rank, size)`: itself, but with batches of which only the examples of
    process `rank` of `size` (`shares`) are sure to be read; labels and indices are whole.
    """

    targets: Tensor

    def __len__(self) -> int: ...

    @property
    def inputs(self) -> InputSpec:
        """What one batch of it looks like."""
        ...

    def to(self, device: torch.device) -> Self: ...

    def __getitem__(self, index: Tensor) -> Self:
        """The examples `index` [M] alone."""
        ...

    def steps(self, how: Batching) -> int:
        """How many batches an epoch has."""
        ...

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        """The training batches of epoch `number` from batch `start` on: a function of (seed, number) alone.

        `views`: which others of `kdbench.method.contract.VIEWS` each batch holds.
        """
        ...

    def in_order(self, size: int) -> Iterator[Batch]:
        """All examples, unchanged and in their order, `size` at a time: for evaluation."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Examples that lie on the device as they are; they are shuffled, not augmented."""

    values: Inputs  # each [N, ...]
    targets: Tensor  # [N] int64; float32 where numbers are to be learnt

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def inputs(self) -> InputSpec:
        if isinstance(self.values, Tensor):
            return InputSpec((_field("inputs", self.values),))
        return InputSpec(tuple(_field(name, x) for name, x in self.values.items()))

    def to(self, device: torch.device) -> Self:
        return replace(self, values=map_inputs(lambda x: x.to(device), self.values), targets=self.targets.to(device))

    def __getitem__(self, index: Tensor) -> Self:
        return replace(self, values=map_inputs(lambda x: x[index], self.values), targets=self.targets[index])

    def steps(self, how: Batching) -> int:
        return steps_per_epoch(len(self), how.batch_size)

    def epoch(
        self, how: Batching, seed: int, number: int, start: int = 0, views: Collection[str] = ()
    ) -> Iterator[Batch]:
        if not isinstance(how.augment, str):
            raise UserError("this data set knows no table of augmentations")
        if views:
            raise UserError(f"this data set has no other views of its examples: {', '.join(sorted(views))}")
        generator = torch.Generator().manual_seed(derive("batches", seed, number))
        order = torch.randperm(len(self), generator=generator).to(self.targets.device)
        for _, index in parts(order, how.batch_size, start):
            part = self[index]
            yield Batch(part.values, part.targets, index)

    def in_order(self, size: int) -> Iterator[Batch]:
        places = torch.arange(len(self), device=self.targets.device)
        for index in places.split(size):
            part = self[index]
            yield Batch(part.values, part.targets, index)


def _field(name: str, values: Tensor) -> Field:
    """What a tensor [N, ...] of examples looks like."""
    low, high = float(values.min()), float(values.max()) + (not values.is_floating_point())
    return Field(name, tuple(values.shape[1:]), str(values.dtype).removeprefix("torch."), low, high)


@dataclass(frozen=True)
class Splits:
    """A data set. `validation` is None until some of the training set is held out.

    Its targets say what is to be learnt, classes or numbers. Of numbers `num_classes` is 1, and `metric` must be given.
    """

    train: Any  # a Split; so is each of the others
    test: Any
    num_classes: int
    validation: Any = None
    classes: tuple[str, ...] = ()  # their names, where there are some
    metric: str = "top1"  # one of `kdbench.method.metric.METRICS`: what its nets are judged by

    def __post_init__(self) -> None:
        targets = {"training": self.train.targets, "test": self.test.targets}
        if NUMBERS in map(kind_of, targets.values()):
            if wrong := [part for part, x in targets.items() if x.dtype != torch.float32 or x.ndim != 1]:
                raise UserError(f"targets that are numbers must be float32 of shape [N]; those of {wrong[0]} are not")
            if (self.num_classes, self.classes) != (1, ()):
                raise UserError("targets that are numbers (float) have no classes: num_classes must be 1")
        assert self.judged_by

    @property
    def kind(self) -> Kind:
        """What its targets are."""
        return kind_of(self.test.targets)

    @property
    def judged_by(self) -> Metric:
        """The metric, of these classes or numbers."""
        return metric_for(self.metric, self.classes, self.num_classes, self.kind.name)

    @property
    def task(self) -> Task:
        """What is to be learnt, without how."""
        sizes = len(self.train), self.train.inputs, len(self.test)
        return Task(self.num_classes, *sizes, self.classes, self.metric, kind=self.kind.name)

    def to(self, device: torch.device) -> "Splits":
        validation = self.validation.to(device) if self.validation else None
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)


def hold_out(splits: Splits, share: float) -> Splits:
    """Set aside a `share` of the training set, the same examples in every run (its own fixed seed).

    Of classes it is stratified. Examples that have no label all stay.
    """
    if not share:
        return splits
    from sklearn.model_selection import train_test_split

    targets = splits.train.targets.numpy()
    labelled = np.flatnonzero(~splits.kind.lacks(splits.train.targets).numpy())
    strata = targets[labelled] if splits.kind is CLASSES else None
    try:
        _, held = train_test_split(labelled, test_size=share, stratify=strata, random_state=0)
    except ValueError as error:
        raise UserError(f"validation: can't hold out {share:g} of {len(labelled)} examples: {error}") from error
    keep = np.setdiff1d(np.arange(len(targets)), held)
    train, validation = (splits.train[torch.from_numpy(np.sort(part))] for part in (keep, held))
    return replace(splits, train=train, validation=validation)


DATASETS: Registry[Any] = Registry("data set")


NOT_THERE = "not there"  # in the place of a digest: such a key holds for no number
Digest = Callable[..., str | None]


def register_dataset(
    name: str,
    *,
    info: Callable[..., Task] | None = None,
    digest: Digest | None = None,
    augments: Collection[str] | None = None,
    prepare: Callable[..., dict[str, Any]] | None = None,
    held: Callable[..., "Held"] | None = None,
    beside: Callable[..., dict[str, bytes]] | None = None,
    augment_table: type[BaseModel] | None = None,
    corrupted: Callable[[Any], Iterator[tuple[str, Any]]] | None = None,
) -> Callable[[Function], Function]:
    """Decorator that puts a function `(data_dir: Path, **settings) -> Splits` under `name`.

    `info` has the same arguments and gives the `Task` without reading the data, so that `plan` works before they are
    there; without it the data are read.

    `digest` has the same arguments and gives a text that tells these data from all others (`kdbench.digest` makes one
    of files), None while they are not there; it becomes part of every key. Leave it out where the name and the
    settings say it all, as of data that are downloaded and checked.

    `augments`: the words that a suite may give as `train.augment`, where the data set knows some; None: it is asked
    only when it makes its batches. `augment_table`: what a table may say in their place; None: it knows none.

    `corrupted(split)` gives (kind, split) for each way in which a test set's examples can be made worse; None: there is
    none, and no suite can ask for it.

    `prepare` has the settings as arguments and says what is done to an example before it is an input, as plain data: an
    exported student carries it.

    `held` has the same arguments and says where the examples will lie while nets train, for `plan`.

    `beside` has the same arguments as the function and gives files, by name, without which nobody can use a net that
    learnt these data (what turns a text into numbers). They are written beside an exported student.
    """

    def register(function: Function) -> Function:
        function.info = info  # type: ignore[attr-defined]
        function.digest = digest  # type: ignore[attr-defined]
        function.augments = augments  # type: ignore[attr-defined]
        function.prepare = prepare  # type: ignore[attr-defined]
        function.held = held  # type: ignore[attr-defined]
        function.beside = beside  # type: ignore[attr-defined]
        function.augment_table = augment_table  # type: ignore[attr-defined]
        function.corrupted = corrupted  # type: ignore[attr-defined]
        DATASETS.add(name, function, function)
        return function

    return register


def load_splits(name: str, settings: dict[str, Any], data_dir: Path, validation: float = 0.0) -> Splits:
    """The data set `name`, on the CPU, with `validation` held out. Raises UserError when it cannot be had.

    Training examples whose label is below 0 (of numbers: NaN) have none; test examples all have one.
    """
    splits: Splits = DATASETS[name](data_dir, **settings)
    if unknown_ones := int(splits.kind.lacks(splits.test.targets).sum()):
        raise UserError(f"data set {name}: {unknown_ones} of its {len(splits.test)} test examples have no label")
    return hold_out(splits, validation)


def task_of(name: str, settings: dict[str, Any], data_dir: Path) -> Task:
    """What there is to learn in the data set `name`; the data are read only where they don't say it unread.

    Raises UserError for a class whose name can't be written.
    """
    info = DATASETS[name].info
    task: Task = info(data_dir, **settings) if info is not None else load_splits(name, settings, data_dir).task
    for label in task.classes:
        if label.encode(errors="ignore").decode() != label:
            raise UserError(f"data set {name}: the name of class {harmless(label)} is not valid UTF-8; rename it")
    return task


@dataclass(frozen=True)
class Held:
    """Where examples lie while nets train, in words ("": nothing to say), and how many a second come from there."""

    words: str = ""
    rate: float = math.inf


def held_of(name: str, settings: dict[str, Any], data_dir: Path) -> Held:
    held = DATASETS[name].held
    return held(data_dir, **settings) if held is not None else Held()


def digest_of(name: str, settings: dict[str, Any], data_dir: Path) -> str:
    """What tells the data from others of that name and those settings; "" where these say it all, or NOT_THERE."""
    digest = DATASETS[name].digest
    if digest is None:
        return ""
    try:
        return digest(data_dir, **settings) or NOT_THERE
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data set {name}: its digest can't be made: {first_line(error)}") from error

"""Students whose weights are for inputs of one size, as a ViT's are: what becomes of them on data of another size."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from kdbench.data import task_of
from kdbench.errors import UserError
from kdbench.method.contract import Task
from kdbench.nets import NETS, build_net
from kdbench.parts import names_within
from kdbench.suite.models import ModelSpec
from kdbench.suite.spec import DatasetSpec


@dataclass
class Sizes:
    """Those of data sets in `data_dir`; each data set and each student is asked once."""

    data_dir: Path
    tasks: dict[str, Task | None] = field(default_factory=dict)
    fixed: dict[str, bool] = field(default_factory=dict)

    def kept(self, student: ModelSpec, learnt: DatasetSpec, later: DatasetSpec) -> ModelSpec:
        """A student that learnt the one and goes on with the other: inputs are resized to what its weights are for.

        A registered net can't be told a size; it stays as it is, and does not fit.
        """
        before, after = self.task(learnt), self.task(later)
        if before is None or after is None or student.img_size is not None or student.model in NETS:
            return student
        old, new = before.inputs.shape, after.inputs.shape
        if old == new or {len(old), len(new)} != {3} or not self.is_fixed(student, before, after):
            return student
        return student.model_copy(update={"img_size": old[-1]})

    def task(self, dataset: DatasetSpec) -> Task | None:
        """None where the data must be read for it and are not there."""
        name = json.dumps([dataset.name, dataset.settings])
        if name not in self.tasks:
            try:
                self.tasks[name] = task_of(dataset.name, dataset.settings, self.data_dir)
            except UserError:
                self.tasks[name] = None
        return self.tasks[name]

    def is_fixed(self, student: ModelSpec, before: Task, after: Task) -> bool:
        """Are its weights others for inputs of another size, or can't it be built for that?"""
        name = json.dumps([student.model_dump_json(), before.inputs.shape, after.inputs.shape])
        if name not in self.fixed:
            try:
                self.fixed[name] = _shapes(student, before) != _shapes(student, replace(before, inputs=after.inputs))
            except UserError:
                self.fixed[name] = True
        return self.fixed[name]


def _shapes(student: ModelSpec, task: Task) -> dict[str, torch.Size]:
    """Of all weights but the head's. Nothing is computed."""
    with torch.device("meta"):
        net = build_net(student, task)
    own = names_within(net.model, net.head)
    return {name: value.shape for name, value in net.model.state_dict().items() if name not in own}

"""Students as files: those of trained cells beside their scores, and cells that are nothing but a converted file."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kdbench.data import Splits
from kdbench.files import write_atomic
from kdbench.grid.begin import left_by
from kdbench.grid.judged import told
from kdbench.layout import Layout
from kdbench.nets import Net, build_net
from kdbench.results.card import about
from kdbench.results.numbers import teacher_of
from kdbench.results.schema import Record
from kdbench.seeding import seeded
from kdbench.suite.cells import Cell
from kdbench.train.delivery import deliver, measured
from kdbench.train.evaluation import evaluate_one
from kdbench.train.load import load_weights_of
from kdbench.train.onnx_file import FileNet
from kdbench.train.robustness import robustness
from kdbench.train.student import Delivered
from kdbench.train.transforms import examples

FROM_TRAINING = ("cost", "repeatable", "led_around", "metric", "kind", "num_classes", "inputs", "num_train", "num_test",
                 "structure", "teacher_key", "teacher_train_seconds", "classes")  # fmt: skip


@dataclass(frozen=True)
class Filed:
    """A file, the same as a net, and what a record tells of it."""

    file: bytes
    net: FileNet
    profile: dict[str, dict[str, Any]]


@dataclass
class Files:
    """Makes, measures and keeps the files of one worker's cells. `seconds`: that each timing may take."""

    results: Path
    _references: dict[str, bytes] = field(default_factory=dict)

    def of(self, cell: Cell, delivered: Delivered, splits: Splits, seconds: float) -> Filed | None:
        """The file of a trained student; None where no row of its suite asks for files. Raises Inapplicable."""
        if not cell.filed:
            return None
        inputs, shown = splits.task.inputs.only(delivered.net.fields), examples(splits.train, cell.seed)
        made = deliver(delivered, inputs, cell.conversions, shown, about(cell.key))
        changed = bool(cell.conversions or cell.make.transforms)
        found = measured(made.file, self.reference(cell, splits) if changed else None, inputs, seconds)
        found["file"]["conversion_seconds"] = made.seconds
        return Filed(made.file, FileNet(made.file, inputs), found)

    def reference(self, cell: Cell, splits: Splits) -> bytes:
        """The same net before its transforms, of the size and speed of a trained one."""
        spec = cell.make.model_copy(update={"transforms": None, "pretrained": False, "checkpoint": None})
        name = f"{spec.model_dump_json()} {cell.dataset.model_dump_json()}"
        if name not in self._references:
            net = as_trained(build_net(spec, splits.task, 0))
            inputs, shown = splits.task.inputs.only(net.fields), examples(splits.train, 0)
            self._references[name] = deliver(Delivered(net), inputs, (), shown, about(cell.key)).file
        return self._references[name]

    def keep(self, cell: Cell, filed: Filed) -> dict[str, Any]:
        """Write the file of a cell whose student is no more than that; returns what its record says of it."""
        write_atomic(Layout(self.results).suite(cell.suite).converted(cell.key), filed.file)
        return {"format": "onnx", "sha256": hashlib.sha256(filed.file).hexdigest()}

    def converted(self, cell: Cell, splits: Splits, seconds: float) -> dict[str, Any]:
        """Make and keep the file of a cell that is another's student, converted; returns what its record tells."""
        assert cell.before is not None
        record, weights = left_by(cell.before, self.results)
        student = load_weights_of(record, weights)
        filed = self.of(cell, student.delivered, splits, seconds)
        assert filed is not None
        metric = splits.judged_by
        said = teacher_of(record)
        known = None if said is None else torch.from_numpy(said).to(splits.test.targets.device)
        judged = evaluate_one(filed.net, splits.test, "fp32", known, metric)
        scores = scores_of_file(record, judged.scores, metric)
        if splits.validation:
            held_out = evaluate_one(filed.net, splits.validation, "fp32", None, metric)
            scores[metric.validation] = scores[metric.delivered] = held_out.scores[metric.name]
        if cell.evaluate.corruptions:
            scores |= robustness(filed.net, cell.dataset.name, splits.test, "fp32")
        profile = {"teacher": record["profile"]["teacher"], "student": sizes_of(record["profile"]["student"])}
        return {
            **{name: record[name] for name in FROM_TRAINING if name in record},
            "scores": scores,
            "profile": {**profile, **filed.profile},
            "delivered": self.keep(cell, filed),
            **told(judged, splits, known),
        }


@torch.no_grad()
def as_trained(net: Net) -> Net:
    """`net` with no two weights alike: an exporter writes parts that are equal, as many are at first, only once."""
    with seeded("as trained"):
        for value in net.model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.01 * torch.rand_like(value))
    return net


def sizes_of(profile: dict[str, Any]) -> dict[str, Any]:
    """Without times: those were the net's in torch, before it was converted."""
    return {name: value for name, value in profile.items() if name in ("params", "macs", "flops")}


def scores_of_file(record: Record, found: dict[str, float], metric: Any) -> dict[str, Any]:
    """No epoch is chosen for a file, and none was better."""
    scores = {
        metric.test: found[metric.name],
        metric.best: None,
        metric.chosen: None,
        **{f"test_{name}": value for name, value in found.items() if name != "agreement"},
        "teacher_agreement": found.get("agreement"),
    }
    return {**scores, metric.teacher: record["scores"].get(metric.teacher)}

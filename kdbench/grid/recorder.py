"""What became of a cell: its record, its weights, its run in MLflow. In that order: the record alone makes it done."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save
from torch import nn

from kdbench.files import finite, write_atomic
from kdbench.grid.progress import Bar
from kdbench.layout import SuiteFolder
from kdbench.results.checkpoints import Checkpoints
from kdbench.results.mlflow_thread import Tracker
from kdbench.results.provenance import versions
from kdbench.results.records import Record, Records
from kdbench.suite.cells import Cell
from kdbench.train.evaluation import class_accuracies
from kdbench.train.memory import peak_memory_mb
from kdbench.train.profiling import profile
from kdbench.train.teacher import Teacher
from kdbench.train.trial import Trial
from kdbench.vision.batches import Splits

MOST_CLASSES = 1000  # of more, a record does not tell the single ones


@dataclass
class Ledger:
    """Writes the cells of one suite into `folder`."""

    folder: SuiteFolder
    records: Records
    checkpoints: Checkpoints
    device: torch.device
    tracker: Tracker
    bar: Bar
    profile_seconds: ClassVar[float] = 1.0
    _profiles: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def head(self, cell: Cell) -> Record:
        return {
            "key": cell.key,
            "suite": cell.suite,
            "dataset": cell.dataset.name,
            "teacher": cell.teacher.short,
            "student": cell.student.short,
            "label": cell.label,
            "seed": cell.seed,
            "settings": cell.identity,
            "status": "running",
            "reason": "",
            "scores": {},
        }

    def skip(self, cell: Cell, reason: str) -> None:
        known = self.records.read(cell.key)
        if known is None or known["status"] != "skipped" or known["reason"] != reason:
            self.write(cell, None, status="skipped", reason=reason)

    def finish(self, cell: Cell, trial: Trial, teacher: Teacher, splits: Splits, members: int) -> None:
        """Record, weights, mirror; then the checkpoints may go."""
        files = []
        details: Record = {"curves": trial.curves, "cost": self.cost(trial, splits, members)}
        details |= {"num_classes": splits.num_classes, "input_size": list(splits.input_size)}
        if trial.status == "done":
            state = {name: value.cpu().contiguous() for name, value in trial.weights().items()}
            files = [self.folder.student(cell.key)]
            write_atomic(files[0], save(state, metadata={"kdbench.key": cell.key, "model": cell.student.model}))
            details |= {"scores": scores_of(trial, teacher), "profile": self.profile(cell, trial, teacher, splits)}
            details |= of_classes(trial, splits)
        self.write(cell, teacher, trial.status, trial.reason, files, **details)
        self.checkpoints.remove(cell.key)

    def write(
        self, cell: Cell, teacher: Teacher | None, status: str, reason: str, files: Sequence[Path] = (), **details: Any
    ) -> None:
        about = {"teacher_key": teacher.key, "teacher_train_seconds": teacher.seconds} if teacher else {}
        record: Record = {
            **self.head(cell),
            "status": status,
            "reason": reason,
            "profile": {},
            "cost": {},
            "curves": {},
            **about,
            **details,
            "versions": versions(self.device, sorted({name for link in cell.lineage for name in link.methods})),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        record = finite(record)
        self.records.write(record)
        self.tracker.finish(record, list(files))
        if status in ("failed", "diverged"):
            self.bar.say(f"{status}: {cell.title}: {reason}")

    def profile(self, cell: Cell, trial: Trial, teacher: Teacher, splits: Splits) -> dict[str, dict[str, Any]]:
        """Teacher and student side by side; students of one make are measured once."""
        stays = trial.deployed.method and trial.deployed.method.name
        name = " ".join([str(stays), *(s.model_dump_json() for s in (cell.teacher, cell.student, cell.dataset))])
        if name not in self._profiles:
            self.bar.now(f"measuring latency of {cell.pair}")
            nets = {"teacher": teacher.net, "student": trial.deployed}
            self._profiles[name] = profile(nets, splits.input_size, self.device, self.profile_seconds)
        return self._profiles[name]

    def cost(self, trial: Trial, splits: Splits, members: int) -> dict[str, float]:
        """What the method costs in training; `alone_seconds` is what the cell would take without its cohort."""
        steps, seconds = max(trial.done, 1), trial.seconds
        return {
            "steps": trial.done,
            "step_ms": 1000 * seconds["step"] / steps,
            "teacher_ms": 1000 * seconds["teacher"] / steps,
            "data_ms": 1000 * seconds["data"] / steps,
            "evaluation_seconds": seconds["epochs"],
            "alone_seconds": seconds["step"] + seconds["teacher"] + seconds["data"] + seconds["epochs"],
            "images_per_second": trial.train_spec.batch_size * steps / max(seconds["step"], 1e-9),
            "seconds_per_epoch": sum(seconds.values()) / max(trial.evaluated, 1),
            "adapter_params": count_parameters(trial.objective.parameters()),
            "cohort_size": members,
            "peak_memory_mb": peak_memory_mb(self.device),
        }


def of_classes(trial: Trial, splits: Splits) -> dict[str, Any]:
    """Top-1 of every class after the last epoch, and the classes' names where the data set tells them."""
    if splits.num_classes > MOST_CLASSES:
        return {}
    precision = trial.train_spec.precision
    top1 = class_accuracies(trial.deployed, splits.test, precision, splits.num_classes)
    return {"test_top1_per_class": top1} | ({"classes": list(splits.classes)} if splits.classes else {})


def scores_of(trial: Trial, teacher: Teacher) -> dict[str, Any]:
    """The score is the last epoch's. `best` is what the literature reports; `chosen` was decided on held-out data."""
    curves = trial.curves
    top1 = curves["test_top1"]
    scores: dict[str, Any] = {
        "test_top1": top1[-1],
        "test_top1_best": max(top1),
        "test_top1_chosen": None,  # without a validation share nothing is chosen
        "test_top5": curves["test_top5"][-1],
        "test_nll": curves["test_nll"][-1],
        "test_ece": curves["test_ece"][-1],
        "teacher_agreement": curves["test_agreement"][-1],
        "teacher_top1": teacher.scores["top1"],
    }
    if held_out := curves.get("validation_top1"):
        epoch = held_out.index(max(held_out))
        scores |= {"test_top1_chosen": top1[epoch], "chosen_epoch": epoch + 1, "validation_top1": held_out[epoch]}
    return scores


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)

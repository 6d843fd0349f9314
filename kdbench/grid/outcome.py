"""What became of a cell, as its record says it: scores, cost, sizes and latency of the student that is delivered."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save
from torch import nn

from kdbench.data import Splits
from kdbench.files import finite
from kdbench.grid.embedded import judge_embeddings
from kdbench.grid.filed import Files, sizes_of
from kdbench.grid.judged import told
from kdbench.method.kinds import CLASSES
from kdbench.method.metric import TOP1, Metric
from kdbench.nets import settled
from kdbench.plain import harmless
from kdbench.results.provenance import file_tools, versions
from kdbench.results.schema import DIGESTS, MOST_REASON, Record
from kdbench.results.seal import sealed
from kdbench.suite.cells import Cell
from kdbench.suite.hub_weights import ENTRY, hub_weights
from kdbench.train.arithmetic import led_around
from kdbench.train.digests import digest_of
from kdbench.train.evaluation import Judged, evaluate, evaluate_one
from kdbench.train.lent import Guard
from kdbench.train.loop import Cohort
from kdbench.train.memory import peak_memory_mb
from kdbench.train.profiling import profile
from kdbench.train.robustness import robustness
from kdbench.train.student import Delivered
from kdbench.train.teacher import Teacher
from kdbench.train.trial import Trial


def head_of(cell: Cell) -> Record:
    """What is known of a cell before it is trained."""
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


def record_of(
    cell: Cell, device: torch.device, status: str, reason: str = "", teacher: Teacher | None = None, **details: Any
) -> Record:
    """The record of a cell that came to its end; `details`: what `Measure` found."""
    made_by = versions(device, sorted({name for link in cell.lineage for name in link.methods}))
    made_by |= file_tools() if cell.filed else {}
    known = {"teacher_key": teacher.key, "teacher_train_seconds": teacher.seconds} if teacher else {}
    begun = {ENTRY: found} if (found := hub_weights(cell)) else {}
    return sealed(finite({
        **head_of(cell),
        **begun,
        "status": status,
        "reason": harmless(reason, MOST_REASON),
        "profile": {},
        "cost": {},
        "curves": {},
        **known,
        **details,
        "versions": made_by,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }))  # fmt: skip


def weights_file(cell: Cell, trial: Trial) -> bytes:
    """The delivered student as a safetensors file."""
    weights = {name: value.cpu().contiguous() for name, value in trial.deliver().weights().items()}
    own = trial.deliver().net.about() if settled(cell.student.model) else {}
    return save(weights, metadata={**own, "kdbench.key": cell.key, "model": cell.student.model})


def digests_of(trial: Trial, teacher: Teacher) -> dict[str, Any]:
    """What later tells whether a student, a teacher or a replayed epoch is the one that made the record."""
    nets = {"student": trial.deliver().weights(), "teacher": teacher.net.model.state_dict()}
    return {"states": trial.digests, **{name: digest_of(weights) for name, weights in nets.items()}}


@dataclass
class Measure:
    """Measures finished cells; students of one make are profiled once."""

    device: torch.device
    processes: int = 1  # beside which times were taken, this one counted
    devices: int = 1  # that trained the cohort together
    files: Files = field(default_factory=lambda: Files(Path()))  # where students that are measured as files are kept
    profile_seconds: ClassVar[float] = 1.0
    neighbours: dict[str, dict[str, float]] = field(default_factory=dict)  # of the cohort last judged, where asked
    _profiles: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def judged(self, trials: Sequence[Trial], cohort: Cohort) -> dict[str, Judged | Exception]:
        """What the delivered students are worth, by key, in one pass of the test set; of one that raises, its error."""
        found: dict[str, Judged | Exception] = {}
        nets: dict[str, Delivered] = {}
        for trial in trials:
            try:
                with Guard():
                    nets[trial.key] = trial.deliver()
            except Exception as error:
                found[trial.key] = error
        if cohort.at_end or cohort.neighbours:
            try:
                about = judge_embeddings(nets, cohort)
            except Exception as error:  # of the data
                return found | dict.fromkeys(nets, error)
            self.neighbours = about.neighbours
            found |= about.broken
            nets = {key: net for key, net in nets.items() if key not in about.broken}
        test, metric = cohort.splits.test, cohort.splits.judged_by
        try:
            results = evaluate([*nets.values()], test, cohort.batches.precision, cohort.known, metric=metric)
        except Exception as error:  # of the data
            return found | dict.fromkeys(nets, error)
        return found | dict(zip(nets, results, strict=True))

    def details(
        self,
        cell: Cell,
        trial: Trial,
        teacher: Teacher,
        cohort: Cohort,
        members: int,
        judged: Judged | Exception | None,
    ) -> dict[str, Any]:
        """All that a record tells beside its head. `judged`: what the student is worth, where it came to its end.

        Raises whatever the delivered student raises.
        """
        splits, known = cohort.splits, cohort.known
        task = splits.task
        details: dict[str, Any] = {"curves": trial.curves, "cost": self.cost(trial, members)}
        details |= {DIGESTS: digests_of(trial, teacher)}
        details |= {"repeatable": trial.repeatable, "led_around": led_around(trial.net, trial.objective, teacher.net)}
        details |= {"metric": task.metric, "num_classes": task.num_classes, "inputs": task.inputs.to_dict()}
        details |= {"kind": task.kind} if task.kind != CLASSES.name else {}
        details |= {"num_train": len(splits.train), "num_test": len(splits.test)}
        details |= {"earlier_devices": trial.earlier} if trial.earlier else {}  # `cost` has the last number
        details |= {"structure": trial.net.structure} if trial.net.structure else {}
        if judged is None:
            return details
        if isinstance(judged, Exception):
            raise judged
        student, metric = trial.deliver(), splits.judged_by
        profile = dict(self.profile(cell, trial, teacher, splits))
        shipped: nn.Module = student
        if (filed := self.files.of(cell, student, splits, self.profile_seconds)) is not None:
            profile |= filed.profile
        if filed is not None and cell.conversions:
            shipped, profile["student"] = filed.net, sizes_of(profile["student"])
            judged = evaluate_one(shipped, splits.test, "fp32", known, metric)
            details["delivered"] = self.files.keep(cell, filed)
        details |= {"scores": scores_of(trial, judged, teacher, metric), "profile": profile}
        if splits.validation and (shipped is not student or cell.train.epochs == 0):  # else a curve ends with it
            held_out = evaluate_one(shipped, splits.validation, "fp32", None, metric)
            details["scores"][metric.delivered] = held_out.scores[metric.name]
        if shipped is not student:
            details["scores"] = without_epochs(details["scores"], metric)
        if cell.evaluate.corruptions:
            details["scores"] |= robustness(shipped, cell.dataset.name, splits.test, cell.train.precision)
        if shipped is student:  # a converted file gives no embedding
            details["scores"] |= self.neighbours.get(cell.key, {})
        details |= told(judged, splits, known)
        return details

    def profile(self, cell: Cell, trial: Trial, teacher: Teacher, splits: Splits) -> dict[str, dict[str, Any]]:
        """Teacher and student side by side."""
        student = trial.deliver()
        made = json.dumps(trial.net.structure) + str(student.method and student.method.name)
        name = " ".join([made, *(spec.model_dump_json() for spec in (cell.teacher, cell.student, cell.dataset))])
        if name not in self._profiles:
            nets = {"teacher": teacher.net, "student": student}
            self._profiles[name] = profile(nets, splits.train.inputs, self.device, self.profile_seconds)
        return self._profiles[name]

    def cost(self, trial: Trial, members: int) -> dict[str, float]:
        """What the method costs in training; `alone_seconds` is what the cell would take without its cohort."""
        steps, seconds = max(trial.done, 1), trial.seconds
        return {
            "steps": trial.done,
            "step_ms": 1000 * seconds["step"] / steps,
            "teacher_ms": 1000 * seconds["teacher"] / steps,
            "data_ms": 1000 * seconds["data"] / steps,
            "evaluation_seconds": seconds["epochs"],
            "prepare_seconds": seconds["prepare"],
            "alone_seconds": sum(seconds.values()),
            "examples_per_second": trial.train_spec.batch_size * steps / max(seconds["step"], 1e-9),
            "seconds_per_epoch": (sum(seconds.values()) - seconds["prepare"]) / max(trial.evaluated, 1),
            "adapter_params": count_parameters(trial.objective.parameters()),
            "cohort_size": members,
            "processes": self.processes,
            "devices": self.devices,
            "peak_memory_mb": peak_memory_mb(self.device),
        }


def scores_of(trial: Trial, judged: Judged, teacher: Teacher, metric: Metric = TOP1) -> dict[str, Any]:
    """The score is that of the delivered student, after the last epoch.

    `best` is what the literature reports; `chosen` was decided on held-out data.
    """
    curves, final = trial.curves, judged.scores
    curve = curves.get(metric.test)  # none where it is judged at the end alone
    scores: dict[str, Any] = {
        metric.test: final[metric.name],
        metric.best: max(curve) if curve else None,
        metric.chosen: None,  # without a validation share nothing is chosen
        **{f"test_{name}": value for name, value in final.items() if name != "agreement"},
        "teacher_agreement": final.get("agreement"),
        metric.teacher: teacher.scores[metric.name],
    }
    if curve and (held_out := curves.get(metric.validation)):
        epoch = held_out.index(max(held_out))
        scores |= {metric.chosen: curve[epoch], "chosen_epoch": epoch + 1, metric.validation: held_out[epoch]}
    return scores


def without_epochs(scores: dict[str, Any], metric: Metric) -> dict[str, Any]:
    """Of a file there is but one: no epoch was better, and none is chosen."""
    kept = {name: value for name, value in scores.items() if name != "chosen_epoch"}
    held_out = {metric.validation: kept[metric.delivered]} if metric.delivered in kept else {}
    return {**kept, **held_out, metric.best: None, metric.chosen: None}


def count_parameters(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)

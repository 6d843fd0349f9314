"""A saved student evaluated again: does it give the scores that its record claims?"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdbench.data import Splits
from kdbench.results.numbers import NUMBERS_OF, teacher_of, unpacked_numbers
from kdbench.results.outcomes import OUTCOMES, Outcomes, unpacked
from kdbench.results.schema import DIGESTS, Record
from kdbench.train.arithmetic import trusted
from kdbench.train.digests import digest_of
from kdbench.train.evaluation import Judged, evaluate_one
from kdbench.train.load import load_weights_of, weights_of
from kdbench.train.onnx_file import FileNet

POINTS = 0.1  # by which a score may differ on another kind of processor, in points of 100 (or two examples)
LOSS = 0.01  # and a loss or an error (of calibration, of a number)
LOSSES = ("nll", "ece", "rmse")


def another_student(record: Record, weights: Path) -> str:
    """Is the file another student than the record's? In words, unevaluated; raises UserError where it is none."""
    if file := record.get("delivered"):
        same = hashlib.sha256(weights.read_bytes()).hexdigest() == file.get("sha256")
        return "" if same else f"{weights.name} is another file than the one that was measured"
    claimed = (record.get(DIGESTS) or {}).get("student")
    same = claimed is None or digest_of(weights_of(record, weights)) == claimed
    return "" if same else f"{weights.name} holds another student: its weights have another digest"


def reevaluated(record: Record, weights: Path, splits: Splits, device: torch.device, exact: bool) -> list[str]:
    """What the student scores otherwise than claimed. `exact`: to the last digit, else within POINTS and LOSS.

    Raises UserError where it can't be built, and what its net raises.
    """
    student = student_in(record, weights, splits, device)
    outcomes = unpacked(record[OUTCOMES]) if OUTCOMES in record else None
    said = teacher_of(record)
    teacher = torch.from_numpy(said).to(device) if said is not None else None
    precision = "fp32" if record.get("delivered") else record["settings"]["train"].get("precision", "fp32")
    judged = evaluate_one(student, splits.test, precision, teacher, splits.judged_by)
    wrong = [*_scores(record, judged, exact, len(splits.test)), *_classes(outcomes, judged, splits, exact)]
    return wrong + (_numbers(record, judged, splits, exact) if NUMBERS_OF in record else [])


def student_in(record: Record, weights: Path, splits: Splits, device: torch.device) -> nn.Module:
    if record.get("delivered"):
        return FileNet(weights.read_bytes(), splits.task.inputs)
    student = load_weights_of(record, weights).delivered.to(device).to(memory_format=torch.channels_last)
    trusted(student)
    return student


def _scores(record: Record, judged: Judged, exact: bool, examples: int) -> list[str]:
    share = max(POINTS, 200 / examples)
    wrong = []
    for name, value in judged.scores.items():
        entry = "teacher_agreement" if name == "agreement" else f"test_{name}"
        said = record["scores"].get(entry)
        within = 0.0 if exact else LOSS if name in LOSSES else share
        if said is None or not abs(said - value) <= within:
            wrong.append(f"{entry} is claimed to be {said}, its student gives {value}")
    return wrong


def _classes(outcomes: Outcomes | None, judged: Judged, splits: Splits, exact: bool) -> list[str]:
    if outcomes is None:
        return []
    found, target = judged.predicted.cpu().numpy(), splits.test.targets.cpu().numpy()
    if len(found) != len(outcomes.predicted) or (target != outcomes.target).any():
        return ["its outcomes are of other test examples"]
    others = int((found != outcomes.predicted).sum())
    allowed = 0 if exact else max(2, round(len(found) * POINTS / 100))
    return [f"its student gives {others} test examples another class than its outcomes say"] * (others > allowed)


def _numbers(record: Record, judged: Judged, splits: Splits, exact: bool) -> list[str]:
    numbers = unpacked_numbers(record[NUMBERS_OF])
    found, target = judged.predicted.cpu().numpy(), splits.test.targets.cpu().numpy()
    if numbers is None or not np.array_equal(target, numbers.target):
        return ["its numbers are of other test examples"]
    others = int((abs(found - numbers.predicted) > (0 if exact else LOSS)).sum())
    allowed = 0 if exact else max(2, round(len(found) * POINTS / 100))
    return [f"its student gives {others} test examples another number than its record says"] * (others > allowed)

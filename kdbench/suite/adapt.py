"""What a trained student learns afterwards: another data set (a suite's `then`), as in the transfer tables of CRD.

Tian et al. 2020, https://arxiv.org/abs/1910.10699, table 4: students distilled on CIFAR-100 are frozen, and a new
classifier learns STL-10 and TinyImageNet.
"""

from dataclasses import replace
from typing import Any

from kdbench.suite.crop import cropped, without
from kdbench.suite.evaluation import SCORE_ALONE
from kdbench.suite.objectives import BASELINE, BASELINES, objective
from kdbench.suite.sizes import Sizes
from kdbench.suite.spec import Adapt
from kdbench.suite.training import Train

WEIGHTS = ("checkpoint", "checkpoint_entry", "head", "start", "transforms")  # those of the student that it begins with


def adapted(cell: Any, how: Adapt, train: Train, data: str, sizes: Sizes) -> Any:
    """The cell in which the student of `cell` learns `how.dataset` from its labels alone, with a new classifier.

    `data`: the digest of these data. No teacher is asked: an untrained net of its make has its place.
    """
    bare: dict[str, Any] = {
        "pretrained": False,
        **dict.fromkeys(WEIGHTS),
        "freeze": ("backbone",) if how.freeze else None,
    }
    dataset = cropped(how.dataset, train, cell.teacher, cell.student)
    task = sizes.task(dataset)  # None: it is not there, and its cells are not trained
    return replace(
        cell,
        dataset=dataset,
        data=data,
        student=sizes.kept(cell.student.model_copy(update=bare), cell.dataset, dataset),
        train=without(train),
        phases=objective({BASELINES[task.kind] if task else BASELINE: 1.0}),
        control="untrained",
        start=cell,
        adapts=True,
        evaluate=SCORE_ALONE,
        labels="",
    )

"""One of several processes that train members together: `python two_devices.py RANK SIZE FOLDER PAIR ROWS`.

Writes what each member ends with to FOLDER/RANK-of-SIZE.pt. With SIZE 1 it is one process on the whole batch.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from kdbench.data import Splits, load_splits
from kdbench.method.contract import Inapplicable
from kdbench.nets import Net, build_net
from kdbench.seeding import seeded
from kdbench.suite.load import ModelSpec, Train, objective
from kdbench.suite.plugins import load_methods
from kdbench.train.devices import Devices
from kdbench.train.group import ALONE, Group
from kdbench.train.loop import Cohort, train_cohort
from kdbench.train.objective import built_objective, prepares
from kdbench.train.start import teacher_epoch, training_task
from kdbench.train.teacher import freeze
from kdbench.train.trial import Trial
from kdbench.vision import holding

CPU = torch.device("cpu")
TOKENS = {"model": "vit_tiny_patch16_224", "img_size": 8, "patch_size": 4, "num_heads": 2}
PAIRS = {
    "cnn": ({"model": "cifar_resnet14", "widths": [4, 4, 8, 8]}, {"model": "cifar_resnet8", "widths": [2, 2, 4, 4]}),
    "vit": ({**TOKENS, "embed_dim": 16, "depth": 4}, {**TOKENS, "embed_dim": 12, "depth": 3}),
}
RECIPE = Train(epochs=1, batch_size=25, lr=0.02, augment="crop_flip", clip_grad=5.0)  # parts of 13 and 12


def few(folder: Path) -> Splits:
    """Ten steps an epoch; or what FOLDER/photos has, decoded whenever it is needed."""
    if (folder / "photos").is_dir():
        holding.MOST_IN_MEMORY, holding.OF_FREE_DISK = 0, 0.0
        about = {"path": "photos", "size": 8, "broken": "stop", "max_megapixels": None}
        return load_splits("folder", about, folder)
    whole = load_splits("digits", {"size": 8}, folder)
    return Splits(whole.train[torch.arange(250)], whole.test[torch.arange(101)], 10)


def member(row: dict[str, Any], splits: Splits, teacher: Net, student: ModelSpec, group: Group) -> Trial:
    """Raises Inapplicable."""
    net, terms = build_net(student, splits.task, "student", 0), objective(row)
    built = built_objective(terms, net, teacher, training_task(splits.task, RECIPE, splits.train.targets), CPU, 0)
    recipe = RECIPE if row.get("kd") != 2 else RECIPE.model_copy(update={"norm_parts": 4})
    trial = Trial(net, built, recipe, CPU, 0, group)
    if any(prepares(term.method) for term in built.all_terms()):
        passes = (teacher, built.needs, splits, RECIPE, 0)
        built.prepare(lambda number: teacher_epoch(*passes, number, lambda: None, group), 0)
    return trial


def end_of(
    row: dict[str, Any], splits: Splits, teacher: Net, student: ModelSpec, group: Group, noise: float
) -> dict[str, Any]:
    try:
        trial = member(row, splits, teacher, student, group)
    except Inapplicable as reason:
        return {"status": "skipped", "reason": str(reason)}
    with torch.no_grad(), seeded("noise"):
        for parameter in trial.net.parameters() if noise else ():
            parameter *= 1 + noise * torch.randn_like(parameter)
    start = {name: value.clone() for name, value in trial.net.state_dict().items()}
    before = decoded(splits)
    train_cohort(Cohort(teacher, splits, RECIPE.batches, 0, group=group), [trial])
    return {
        "decoded": decoded(splits) - before,
        "status": trial.status, "reason": trial.reason, "curves": trial.curves, "start": start,
        "net": trial.net.state_dict(), "objective": trial.objective.state_dict(), "done": trial.done,
    }  # fmt: skip


def decoded(splits: Splits) -> int:
    """How many training pictures were so far."""
    return getattr(getattr(splits.train, "pixels", None), "pictures", 0)


def ends(
    splits: Splits, pair: str, rows: list[dict[str, Any]], group: Group = ALONE, noise: float = 0.0
) -> list[dict[str, Any]]:
    """`noise`: by how much, relatively, each weight of the student is off at the start."""
    models = [ModelSpec(**model) for model in PAIRS[pair]]
    teacher = freeze(build_net(models[0], splits.task, "teacher", 0), CPU)
    return [end_of(row, splits, teacher, models[1], group, noise) for row in rows]


def main(rank: int, size: int, folder: Path, pair: str, rows: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    load_methods()
    group = Devices(rank, size, dist.FileStore(str(folder / "store"), size), CPU)
    torch.save(ends(few(folder), pair, rows, group), folder / f"{rank}-of-{size}.pt")
    group.agree(False)  # none leaves before the others have come so far
    group.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], json.loads(sys.argv[5]))

"""Teachers: loaded or trained once per (data set, model, recipe, seed), kept with their accuracy, found by key.

A teacher may itself be a distilled student (`taught_by`): then its own teacher is obtained first, and so on upwards.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from kdbench.data import Split, Splits
from kdbench.errors import UserError
from kdbench.nets import Net, build_net
from kdbench.results.checkpoints import Checkpoints
from kdbench.suite.cells import Cell
from kdbench.suite.controls import CONTROLS
from kdbench.suite.hub_weights import ENTRY, hub_weights, others
from kdbench.suite.objectives import BASELINES, objective
from kdbench.suite.spec import TeacherTrain
from kdbench.train.arithmetic import trusted
from kdbench.train.evaluation import evaluate_one
from kdbench.train.group import ALONE, Group
from kdbench.train.loop import Cohort, Hooks, Stopped, train_cohort
from kdbench.train.objective import Objective
from kdbench.train.one_writer import Shelf
from kdbench.train.probe import Probed, layer_of, linear_probe
from kdbench.train.start import start_trial
from kdbench.train.trial import Misfit, Trial
from kdbench.train.unread import lacks_some
from kdbench.weights import give_weights


@dataclass
class Teacher:
    """A frozen net in eval mode, and its scores on the test set.

    `judged`: what gives logits for the classes of the data: the net, or a linear probe on it where it has others.
    """

    net: Net
    judged: nn.Module
    scores: dict[str, float]
    seconds: float = 0.0
    key: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


MOST_BATCHES = 100  # from which an untrained teacher's batch norms have their statistics

MakeHooks = Callable[[Cell, Trial, Checkpoints], Hooks]


class TeacherFailed(Exception):
    """A teacher's training `diverged` or `failed` (the status), with the reason; the cells that need it end so."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def obtain(
    cell: Cell,
    splits: Splits,
    results: Path,
    device: torch.device,
    hooks: MakeHooks,
    waiting: Callable[[str], None] = lambda owner: None,
    group: Group = ALONE,
) -> Teacher:
    """The teacher of `cell`, from `results/teachers/` if it is there.

    `hooks(cell, trial, checkpoints)` makes the training's hooks; `waiting(owner)` is called while another process
    trains this teacher. Raises Stopped, TeacherFailed, or UserError when it can't be built.
    """
    shelf = Shelf(results, group)
    with shelf.lock(cell.teacher_key, waiting):
        teacher = _load(cell, splits, shelf, device) or _make(cell, splits, shelf, device, hooks, waiting)
        shelf.checkpoints.remove(cell.teacher_key)
        return teacher


def kept_teacher(cell: Cell, splits: Splits, results: Path, device: torch.device) -> Teacher | None:
    """The teacher of `cell` as it lies in `results/teachers/`; None where it does not, or is damaged."""
    return _load(cell, splits, Shelf(results, ALONE), device)


def freeze(net: Net, device: torch.device) -> Net:
    """Eval mode for good, and no gradients: neither weights nor batch-norm statistics can change."""
    net.to(device).to(memory_format=torch.channels_last)
    trusted(net)
    net.requires_grad_(False)
    return net.eval()


def _build(cell: Cell, splits: Splits) -> Net:
    generation = len(cell.lineage) - 1  # each generation starts from other weights, as born-again nets should
    seed = (cell.teacher_seed, generation) if generation else (cell.teacher_seed,)
    expected = cell.teacher_identity["model"].get("checkpoint")
    return build_net(cell.teacher_net, splits.task, "teacher", *seed, expected=expected)


def _load(cell: Cell, splits: Splits, shelf: Shelf, device: torch.device) -> Teacher | None:
    try:
        if (found := shelf.read(cell.teacher_key)) is None:
            return None
        about, content = found
        scores, seconds, settings = dict(about["scores"]), float(about["seconds"]), dict(about["settings"])
        if about.get("sha256", _digest(content)) != _digest(content) or not isinstance(scores[splits.metric], float):
            return None
        if (told := about.get(ENTRY)) and others(told, hub_weights(cell)):
            return None
        net, weights = _build(cell, splits), load(content)
        probe = {name: weights.pop(name) for name in list(weights) if name.startswith("probe.")}
        give_weights(net.model, weights)
        freeze(net, device)
        judged = Probed(net, layer_of(probe).to(device)) if probe else net
        return Teacher(net, judged, scores, seconds, cell.teacher_key, settings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError, UserError):
        return None  # not there, or damaged: it is made again, with the same bits


@torch.no_grad()
def settle_norms(net: Net, train: Split, how: TeacherTrain, seed: int) -> None:
    """Give batch norms the statistics of the first batches; weights stay as they were drawn.

    With the statistics that a net begins with, activations grow from block to block: an untrained resnet56 gives
    logits of 10,000, which would make of every soft label one class.
    """
    norms = [part for part in net.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean over the batches
    for batch in islice(train.epoch(how, seed, 0), MOST_BATCHES) if norms else ():
        net(batch.inputs)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
    net.eval()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make(
    cell: Cell,
    splits: Splits,
    shelf: Shelf,
    device: torch.device,
    hooks: MakeHooks,
    waiting: Callable[[str], None],
) -> Teacher:
    net = _build(cell, splits)
    recipe, seconds, learnt = cell.teacher_train, 0.0, dict[str, Any](curves={}, digests=[])
    if cell.teacher_is_trained and recipe.epochs:
        try:
            trial, seconds = _train(cell, net, splits, shelf, device, hooks, waiting)
        except Misfit:
            shelf.checkpoints.remove(cell.teacher_key)
            return _make(cell, splits, shelf, device, hooks, waiting)
        learnt = {"curves": trial.curves, "digests": trial.digests, "devices": [*trial.earlier, shelf.group.size]}
        net = trial.deliver().net
    freeze(net, device)
    if cell.control and not cell.teacher_is_trained:
        settle_norms(net, splits.train, recipe, cell.teacher_seed)
    weights = {name: value.cpu().contiguous() for name, value in net.model.state_dict().items()}
    judged: nn.Module = net
    if cell.teacher.num_classes is not None:
        probe = linear_probe(net, splits.train, splits.num_classes, recipe.precision)
        judged = Probed(net, probe)
        weights |= {f"probe.{name}": value.cpu() for name, value in probe.state_dict().items()}
    scores = evaluate_one(judged, splits.test, recipe.precision, metric=splits.judged_by).scores
    content = save(weights)
    about = {"key": cell.teacher_key, "settings": cell.teacher_identity, "scores": scores, "seconds": seconds}
    about |= {**learnt, "sha256": _digest(content)}
    about |= {ENTRY: found} if (found := hub_weights(cell)) else {}
    shelf.write(cell.teacher_key, about, content)
    return Teacher(net, judged, scores, seconds, cell.teacher_key, cell.teacher_identity)


def _train(
    cell: Cell,
    net: Net,
    splits: Splits,
    shelf: Shelf,
    device: torch.device,
    hooks: MakeHooks,
    waiting: Callable[[str], None],
) -> tuple[Trial, float]:
    """The trained teacher, and the seconds that it and its own teachers took.

    It is a cohort of one that learns from the labels alone, or from its own teacher.
    """
    recipe, checkpoints, group = cell.teacher_train, shelf.checkpoints, shelf.group
    splits = CONTROLS[cell.control].splits(splits, cell.teacher_seed) if cell.control else splits
    state, above = checkpoints.load(cell.teacher_key), None
    if cell.teacher_cell is None:
        plain = objective({BASELINES[splits.kind.name]: 1.0})
        trial = Trial(net, Objective(plain), recipe, device, cell.teacher_seed, group)
        trial.objective.partly = lacks_some(splits.train.targets)
        if state is not None:
            trial.load_state(state)
    else:
        above = obtain(cell.teacher_cell, splits, shelf.results, device, hooks, waiting, group)
        trial = start_trial(cell.teacher_cell, net, splits, above.net, device, state, group=group)
    trial.key = cell.teacher_key
    own = hooks(cell, trial, checkpoints)
    teaching = (above.net, above.judged) if above else (None, None)
    cohort = Cohort(teaching[0], splits, recipe.batches, cell.teacher_seed, own, None, group, teaching[1])
    if not train_cohort(cohort, [trial]):
        raise Stopped
    if trial.status != "done":
        raise TeacherFailed(trial.status, f"its teacher {cell.teacher.short} {trial.status}: {trial.reason}")
    return trial, sum(trial.seconds.values()) + (above.seconds if above else 0.0)

"""Each of several processes reads its part of every batch alone, where nobody asks for the rest."""

from collections.abc import Sequence

from kdbench.data import Split
from kdbench.method.register import METHODS
from kdbench.train.group import Group, own_part
from kdbench.train.trial import Trial


def training_part(split: Split, group: Group, trials: Sequence[Trial]) -> Split:
    """`own_part`, to train on; whole where batch norms see other parts, or a plugin's method may read inputs itself."""
    return own_part(split, group) if not any(sees_all(trial) for trial in trials) else split


def sees_all(trial: Trial) -> bool:
    """kdbench's own methods read outputs and labels alone."""
    foreign = any(METHODS.code(term.name) for term in trial.objective.all_terms())
    return foreign or trial.train_spec.norm_parts is not None

"""Encoders that were trained elsewhere: from a folder or a hub. What does not fit is told, never filled with noise."""

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdbench.errors import UserError, first_line
from kdbench.method.contract import Task
from kdbench.text.extra import quiet_transformers
from kdbench.text.labels import Labels, head_rows, number_row
from kdbench.text.tokens import MADE, folder_of, words_of

HEADS = ("classifier", "pre_classifier")  # and a pooler: what a pretrained net need not have learnt
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model")


def from_weights(kind: str, task: Task, weights: str, changes: dict[str, float], labels: Labels) -> Any:
    """A folder's net, or one of the hub, with a head for the task; on the meta device its shapes alone.

    Raises UserError where they can't be had, hold another net, or a head of which nobody knows what it says.
    """
    package = quiet_transformers()
    place = folder_of(weights)
    try:
        config = package.AutoConfig.from_pretrained(place)
    except Exception as error:
        what = "neither a folder with config.json, nor could it be had from the hub"
        raise UserError(f"{kind}: weights {weights!r}: {what} ({first_line(error)})") from error
    if config.model_type != kind:
        raise UserError(f"{kind}: {weights} holds a {config.model_type}; give `model: {config.model_type}`")
    rows = head_rows(config, task.classes, weights, labels) if task.classes else number_row(config, task, kind, labels)
    for name, value in {"num_labels": task.num_classes, **changes}.items():
        setattr(config, name, value)
    auto = package.AutoModelForSequenceClassification
    if torch.get_default_device().type == "meta":
        return auto.from_config(config, attn_implementation="sdpa")
    model, found = auto.from_pretrained(
        place,
        config=config,
        attn_implementation="sdpa",
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    check_loaded(kind, weights, found)
    set_head(classifier_of(model), rows, config.initializer_range)
    return model


def check_loaded(kind: str, weights: str, found: dict[str, Collection[Any]]) -> None:
    """Raises UserError unless all but a head came from the files."""
    missing = sorted(name for name in found["missing_keys"] if not is_head(name))
    others = sorted({str(entry[0] if isinstance(entry, tuple) else entry) for entry in found["mismatched_keys"]})
    others = [name for name in others if not is_head(name)]
    if missing:
        raise UserError(
            f"{kind}: {weights}: its files lack {len(missing)} tensors of the net, such as {missing[0]}"
            + "".join(f"; they hold {name}, which is none of it" for name in sorted(found["unexpected_keys"])[:1])
        )
    if others:
        raise UserError(f"{kind}: {weights}: {others[0]} has another shape in its files than config.json says")


def is_head(name: str) -> bool:
    return name.startswith(HEADS) or ".pooler." in name


def set_head(head: nn.Linear, rows: Sequence[int] | None, deviation: float) -> None:
    """Its rows in the order of the data set's classes; new ones where they are another task's."""
    with torch.no_grad():
        if rows is not None:
            for part in head.parameters():
                part.copy_(part[list(rows)].clone())
            return
        nn.init.normal_(head.weight, std=deviation)
        nn.init.zeros_(head.bias)


def classifier_of(model: nn.Module) -> Any:
    linear = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    return [part for name, part in linear if name.startswith("classifier")][-1]


def check_words(kind: str, task: Task, weights: str, second: bool) -> None:
    """Raises UserError where the data set's numbers are another tokenizer's than the net has learnt.

    A net whose folder holds no tokenizer can't be asked; it is refused texts by a tokenizer that is made of them.
    """
    if not task.inputs.made_by:  # of a record: the student has its own weights by now
        return
    setting, own = ("second" if second else "tokenizer"), task.inputs.made_by[second]
    learnt = words_with(weights)
    if own == MADE:
        where = weights if learnt else "the one that it was trained with"
        raise UserError(
            f"{kind}: {weights} knows the words of its own tokenizer, and the data set's is made of its texts "
            f"({MADE}); give the data set `{setting}: {where}`"
        )
    if learnt and own != learnt:
        raise UserError(
            f"{kind}: {weights} has another tokenizer than the data set; give the data set `{setting}: {weights}`"
        )


def words_with(weights: str) -> str:
    """What tells the tokenizer beside a net's weights from others; "" where there is none."""
    folder = Path(folder_of(weights))
    if not folder.is_dir():
        return _words_in(weights, ())
    files = [folder / name for name in TOKENIZERS if (folder / name).is_file()]
    return _words_in(str(folder), tuple(path.stat().st_mtime_ns for path in files)) if files else ""


@lru_cache(maxsize=16)
def _words_in(folder: str, times: tuple[int, ...]) -> str:
    return words_of(folder)

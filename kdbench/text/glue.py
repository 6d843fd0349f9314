"""The classification tasks of GLUE (Wang et al. 2019, https://arxiv.org/abs/1804.07461), through `datasets`.

The labels of the test sets are not public: as in the papers on distillation, nets are judged on the development set.
STS-B is left out: its labels are numbers, and a net here tells classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.data import Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError, first_line
from kdbench.method.contract import Task
from kdbench.text.batches import AUGMENTS
from kdbench.text.corpus import Labelled, Length, Tokens, Vocabulary, prepare, splits_of, unread
from kdbench.text.extra import optional
from kdbench.text.tokens import MADE, Text

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class About:
    """Columns, classes in the order of the labels, the metric of the benchmark, and how many texts there are."""

    columns: tuple[str, ...]
    classes: tuple[str, ...]
    counts: tuple[int, int]
    metric: str = "top1"
    judged_on: str = "validation"


TASKS = {
    "cola": About(("sentence",), ("unacceptable", "acceptable"), (8551, 1043), "matthews"),
    "sst2": About(("sentence",), ("negative", "positive"), (67349, 872)),
    "mrpc": About(("sentence1", "sentence2"), ("not_equivalent", "equivalent"), (3668, 408), "f1"),
    "qqp": About(("question1", "question2"), ("not_duplicate", "duplicate"), (363846, 40430), "f1"),
    "mnli": About(("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), (392702, 9815),
                  judged_on="validation_matched"),
    "qnli": About(("question", "sentence"), ("entailment", "not_entailment"), (104743, 5463)),
    "rte": About(("sentence1", "sentence2"), ("entailment", "not_entailment"), (2490, 277)),
    "wnli": About(("sentence1", "sentence2"), ("not_entailment", "entailment"), (635, 71)),
}  # fmt: skip
Name = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "wnli"]


def info(data_dir: Path, subset: Name, tokenizer: str, second: str | None, vocabulary: int, length: int) -> Task:
    about, tokens = TASKS[subset], Tokens(tokenizer, second, vocabulary, length)
    return unread(about.classes, tokens, about.counts, len(about.columns) == 2, about.metric)


def digest(data_dir: Path, subset: Name, tokenizer: str, second: str | None, vocabulary: int, length: int) -> str:
    """The name says which texts they are; a tokenizer's file may be anything."""
    return digest_of_files(Tokens(tokenizer, second, vocabulary, length).files())


def beside(
    data_dir: Path, subset: Name, tokenizer: str, second: str | None, vocabulary: int, length: int
) -> dict[str, bytes]:
    return Tokens(tokenizer, second, vocabulary, length).beside(part_of(subset, "train", data_dir).texts)


@register_dataset("glue", info=info, digest=digest, augments=AUGMENTS, prepare=prepare, beside=beside)
def glue(
    data_dir: Path,
    subset: Name,
    tokenizer: str = MADE,
    second: str | None = None,
    vocabulary: Vocabulary = 8000,
    length: Length = 128,
) -> Splits:
    """One task of GLUE, judged on its development set by the benchmark's own metric: needs a network the first time.

    `tokenizer`, `second`, `vocabulary`, `length`: as of `text_folder`.
    """
    about = TASKS[subset]
    train, test = (part_of(subset, part, data_dir) for part in ("train", about.judged_on))
    return splits_of(train, test, about.classes, Tokens(tokenizer, second, vocabulary, length), about.metric)


def part_of(subset: Name, part: str, data_dir: Path) -> Labelled:
    """Raises UserError where it can't be had, or its labels stand in another order than here."""
    about = TASKS[subset]
    try:
        rows = optional("datasets").load_dataset(HUB, subset, split=part, cache_dir=str(data_dir / "glue"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data set glue: {subset} could not be had from {HUB} ({first_line(error)})") from error
    if (names := tuple(rows.features["label"].names)) != about.classes:
        found, wanted = ", ".join(names), ", ".join(about.classes)
        raise UserError(f"data set glue: {subset} has the classes {found}; expected {wanted}")
    columns: list[Any] = [list(rows[name]) for name in about.columns]
    texts: list[Text] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return Labelled(texts, list(rows["label"]))

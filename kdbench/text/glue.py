"""The tasks of GLUE (Wang et al. 2019, https://arxiv.org/abs/1804.07461), through `datasets`.

The labels of the test sets are not public: as in the papers on distillation, nets are judged on the development set.
What was downloaded once is read from its file: a new state of the hub's reaches nobody who began with another.
Those of STS-B are numbers, 0 to 5.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.data import Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError, first_line
from kdbench.files import CannotWrite, cache_folder, read_checked, write_checked
from kdbench.hubs import answers
from kdbench.method.contract import Task
from kdbench.text.batches import AUGMENTS
from kdbench.text.corpus import Labelled, Length, Tokens, Vocabulary, prepare, splits_of, unread
from kdbench.text.extra import optional
from kdbench.text.tokens import MADE, Text

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class About:
    """Columns, classes in the order of the labels (none: they are numbers), the benchmark's metric, how many texts."""

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
    "stsb": About(("sentence1", "sentence2"), (), (5749, 1500), "pearson"),
    "wnli": About(("sentence1", "sentence2"), ("not_entailment", "entailment"), (635, 71)),
}  # fmt: skip
Name = Literal["cola", "sst2", "mrpc", "qqp", "mnli", "qnli", "rte", "stsb", "wnli"]


def info(data_dir: Path, subset: Name, tokenizer: str, second: str | None, vocabulary: int, length: int) -> Task:
    about, tokens = TASKS[subset], Tokens(tokenizer, second, vocabulary, length)
    return unread(about.classes, tokens, about.counts, len(about.columns) == 2, about.metric)


def digest(
    data_dir: Path, subset: Name, tokenizer: str, second: str | None, vocabulary: int, length: int
) -> str | None:
    """Of the texts, their labels and a tokenizer's files; downloaded the first time. None: not within reach."""
    parts = ("train", TASKS[subset].judged_on)
    if not all(kept(subset, part, data_dir) for part in parts) and not within_reach():
        return None
    files = Tokens(tokenizer, second, vocabulary, length).files()
    return digest_of_files(files, [f"{part} {content_of(subset, part, data_dir)}" for part in parts])


def content_of(subset: Name, part: str, data_dir: Path) -> str:
    """A hash of the texts and labels of one part; of a file that did not change since it was made it is kept."""
    file = kept(subset, part, data_dir)
    place = cache_folder("digests") / f"glue-{digest_of_files({part: str(file)})}" if file else None
    if place is not None:
        with suppress(OSError, ValueError):
            return read_checked(place).decode()
    found = part_of(subset, part, data_dir)
    text = json.dumps([list(found.texts), list(found.labels)])
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    if place is not None:
        with suppress(CannotWrite):
            write_checked(place, digest.encode())
    return digest


def kept(subset: Name, part: str, data_dir: Path) -> Path | None:
    """The file that `datasets` made of an earlier download; of several the last one."""
    files = (data_dir / "glue").glob(f"nyu-mll___glue/{subset}/*/*/glue-{part}.arrow")
    return max(files, key=lambda file: (file.stat().st_mtime_ns, str(file)), default=None)


def within_reach() -> bool:
    return answers("huggingface.co")


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
        file, package = kept(subset, part, data_dir), optional("datasets")
        rows = (
            package.load_dataset(HUB, subset, split=part, cache_dir=str(data_dir / "glue"))
            if file is None
            else package.Dataset.from_file(str(file))
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"data set glue: {subset} could not be had from {HUB} ({first_line(error)})") from error
    if (names := tuple(getattr(rows.features["label"], "names", ()))) != about.classes:
        found, wanted = (", ".join(some) or "none, but numbers" for some in (names, about.classes))
        raise UserError(f"data set glue: {subset} has the classes {found}; expected {wanted}")
    columns: list[Any] = [list(rows[name]) for name in about.columns]
    texts: list[Text] = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    return Labelled(texts, list(rows["label"]))

"""From labelled texts to a data set: what all of this domain's data sets share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from kdbench.data import Splits
from kdbench.method.contract import Task
from kdbench.method.kinds import CLASSES, NUMBERS
from kdbench.method.metric import TOP1, metric_for
from kdbench.text.batches import Reading, Texts
from kdbench.text.tokens import MADE, Text, digest_of_words, file_of, read_as, size_of, tokenizer

Length = Annotated[int, Field(ge=4, le=8192)]
Vocabulary = Annotated[int, Field(ge=300, le=1_000_000)]


@dataclass(frozen=True)
class Labelled:
    """Texts with the number of each one's class, or where numbers are learnt with each one's own (float)."""

    texts: Sequence[Text]
    labels: Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class Tokens:
    """How texts become numbers. `second`: another tokenizer, for nets with `reads: second`.

    The second has 8 places more than the first, so that shapes tell which of them a net read: a method that compares
    places then says that they are not the same ones.
    """

    tokenizer: str = MADE
    second: str | None = None
    vocabulary: int = 4000
    length: int = 64

    @property
    def all(self) -> list[tuple[str, int]]:
        """(name, places) of each."""
        return [(self.tokenizer, self.length), *([(self.second, self.length + 8)] if self.second else [])]

    def beside(self, texts: Sequence[Text]) -> dict[str, bytes]:
        """What an exported net needs to read texts. `texts`: the training ones."""
        names = ("tokenizer.json", "second_tokenizer.json")
        both = zip(names, self.all, strict=False)
        return {file: file_of(name, texts, self.vocabulary, length) for file, (name, length) in both}

    def files(self) -> dict[str, str]:
        """Name -> path of what is read from local folders: part of what tells these numbers from others."""
        found: dict[str, str] = {}
        for number, (name, _) in enumerate(self.all):
            if name == MADE:  # whatever folder is called so
                continue
            folder, title = Path(name).expanduser(), f"tokenizer {number}"
            if (whole := folder / "tokenizer.json").is_file():
                found[title] = str(whole)
            elif folder.is_dir():  # an older kind: a vocabulary, merges, a configuration
                found |= {f"{title}/{file.name}": str(file) for file in folder.iterdir() if file.is_file()}
        return found


def prepare(length: int, **_: Any) -> dict[str, Any]:
    """What is done to a text before it is an input: a data set's `prepare`."""
    return {
        "by": "tokenizer.json, which stands beside the net",
        "length": length,
        "mask": "1 where there is text",
    }


def splits_of(
    train: Labelled, test: Labelled, classes: tuple[str, ...], tokens: Tokens, metric: str | None = None
) -> Splits:
    """Both parts as `Texts`; no `classes`: labels are numbers. Raises UserError for a tokenizer that can't be had."""
    parts = (train.texts, test.texts)
    both = [read_as(name, parts, tokens.vocabulary, length) for name, length in tokens.all]
    first, second = (texts_of([reading[place] for reading in both], part) for place, part in enumerate((train, test)))
    return Splits(first, second, len(classes) or 1, classes=classes, metric=metric or usual_metric(classes))


def usual_metric(classes: tuple[str, ...]) -> str:
    return TOP1.name if classes else "pearson"


def texts_of(readings: Sequence[Reading], part: Labelled) -> Texts:
    dtype = torch.float32 if any(isinstance(label, float) for label in part.labels) else torch.int64
    return Texts(tuple(readings), torch.tensor(list(part.labels), dtype=dtype))


def unread(
    classes: tuple[str, ...],
    tokens: Tokens,
    counts: tuple[int, int] = (1000, 1000),
    pairs: bool = False,
    metric: str | None = None,
) -> Task:
    """The task of texts that are not there yet; no `classes`: numbers are learnt."""
    readings = []
    for name, length in tokens.all:
        own = None if name == MADE else tokenizer(name, (), 0)
        size = size_of(name, own, tokens.vocabulary)
        words = MADE if own is None else digest_of_words(own)
        blank = torch.zeros(1, length, dtype=torch.int32)
        segments = blank.to(torch.uint8) if pairs else None
        readings.append(Reading(blank, torch.ones(1, dtype=torch.int64), segments, size, words=words))
    inputs = Texts(tuple(readings), torch.zeros(1, dtype=torch.int64)).inputs
    kind, count = (CLASSES if classes else NUMBERS).name, len(classes) or 1
    judged = metric_for(metric or usual_metric(classes), classes, count, kind).name
    return Task(count, counts[0], inputs, counts[1], classes, judged, kind=kind)

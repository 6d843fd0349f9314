"""Your own texts: tables or folders, `train` and `val` (or `test`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, Literal

from kdbench.data import Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError, unknown
from kdbench.method.contract import Task
from kdbench.method.kinds import NUMBERS
from kdbench.method.metric import rating
from kdbench.text.batches import AUGMENTS
from kdbench.text.corpus import Labelled, Length, Tokens, Vocabulary, prepare, splits_of, unread
from kdbench.text.tables import column, part_of, rows_of, rows_of_folder, text_files
from kdbench.text.tokens import MADE, Text

Targets = Literal["numbers"]
LARGEST = 1e38  # of a number in float32
FARTHEST = 100.0  # of numbers that are to be learnt: their mean and deviation


@dataclass(frozen=True)
class Columns:
    """What stands where. `pair`: a second text. `classes`: their names in order, else they are sorted.

    `targets`: what labels are, classes (None) or numbers.
    """

    text: str
    label: str
    pair: str | None = None
    classes: tuple[str, ...] | None = None
    judged_on: str | None = None
    targets: Targets | None = None


def info(data_dir: Path, path: str, **settings: Any) -> Task:
    """Counts the texts; a folder that isn't there yet is taken to have two classes of a thousand texts."""
    tokens, pairs = tokens_of(settings), settings["pair"] is not None
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        classes = settings["classes"] or (() if settings["targets"] == NUMBERS.name else ("0", "1"))
        return unread(classes, tokens, pairs=pairs, metric=settings["metric"])
    train, test, classes = read(root, columns_of(settings))
    return unread(classes, tokens, (len(train.texts), len(test.texts)), pairs, settings["metric"])


def digest(data_dir: Path, path: str, **settings: Any) -> str | None:
    root = data_dir / Path(path).expanduser()
    if not root.is_dir():
        return None
    files = tokens_of(settings).files()
    for part in ("train", "test"):
        place = part_of(root, part, settings["judged_on"] if part == "test" else None)
        found = text_files(place) if place.is_dir() else [place]
        files |= {f"{part}/{file.relative_to(place).as_posix()}": str(file) for file in found}
    return digest_of_files(files)


def beside(data_dir: Path, path: str, **settings: Any) -> dict[str, bytes]:
    train, _, _ = read(data_dir / Path(path).expanduser(), columns_of(settings))
    return tokens_of(settings).beside(train.texts)


@register_dataset("text_folder", info=info, digest=digest, augments=AUGMENTS, prepare=prepare, beside=beside)
def text_folder(
    data_dir: Path,
    path: str,
    text: str = "text",
    label: str = "label",
    pair: str | None = None,
    classes: tuple[str, ...] | None = None,
    metric: str | None = None,
    judged_on: str | None = None,
    tokenizer: str = MADE,
    second: str | None = None,
    vocabulary: Vocabulary = 4000,
    length: Length = 128,
    targets: Targets | None = None,
) -> Splits:
    """Texts of your own: train and val (or test) as .csv, .tsv, .jsonl, .parquet, or as folders CLASS/*.txt.

    `path` is relative to the data folder, or absolute. `text` and `label` (and `pair`, where there are two texts) name
    the columns; `classes` their order, else they are sorted. `targets: numbers`: labels are numbers to be learnt, not
    classes. `metric`: what nets are judged by, top-1 (of numbers Pearson) where it says nothing; `judged_on`: on which
    part, where there are both val and test. `tokenizer`: `bpe` (made of the training texts, `vocabulary` entries), a
    folder with tokenizer.json, or a name on the hub; `second`: another one for nets with `reads: second`. Texts are cut
    to `length` places.
    """
    columns = Columns(text, label, pair, classes, judged_on, targets)
    train, test, names = read(data_dir / Path(path).expanduser(), columns)
    return splits_of(train, test, names, Tokens(tokenizer, second, vocabulary, length), metric)


def tokens_of(settings: dict[str, Any]) -> Tokens:
    return Tokens(settings["tokenizer"], settings["second"], settings["vocabulary"], settings["length"])


def columns_of(settings: dict[str, Any]) -> Columns:
    names = ("text", "label", "pair", "classes", "judged_on", "targets")
    return Columns(*(settings[name] for name in names))


def read(root: Path, columns: Columns) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    """Both parts and the classes, none of numbers. Raises UserError naming file, row and the nearest right name."""
    both = [table(place, columns) for place in (part_of(root, "train"), part_of(root, "test", columns.judged_on))]
    (train, train_labels, where), (test, test_labels, where_test) = both
    if columns.targets == NUMBERS.name:
        if columns.classes:
            raise UserError(f"{where}: `targets: numbers` have no `classes`")
        numbers = [numbers_of(labels, columns.label, place) for _, labels, place in both]
        can_be_learnt(numbers[0], columns.label, where)
        return Labelled(train, numbers[0]), Labelled(test, numbers[1]), ()
    classes = columns.classes or tuple(in_order(set(train_labels)))
    if len(classes) < 2:
        raise UserError(f"{where}: needs two classes or more; column {columns.label!r} has {len(classes)}")
    if len(set(classes)) < len(classes):
        raise UserError(f"{where}: `classes` names one twice: {', '.join(classes)}")
    if unseen := [name for name in classes if name not in set(train_labels)]:
        raise UserError(f"{where}: no text of class {', '.join(unseen[:5])}")
    labelled = (
        numbered(train, train_labels, classes, where),
        numbered(test, test_labels, classes, where_test),
    )
    return *labelled, classes


def table(place: Path, columns: Columns) -> tuple[list[Text], list[str], Path]:
    """The texts of a part, their classes' names, and where they stand."""
    rows = rows_of_folder(place, columns.text, columns.label) if place.is_dir() else rows_of(place)
    texts: list[Text] = [str(value) for value in column(rows, columns.text, place)]
    if columns.pair is not None:
        seconds = column(rows, columns.pair, place)
        texts = [(str(one), str(other)) for one, other in zip(texts, seconds, strict=True)]
    return texts, [str(value) for value in column(rows, columns.label, place)], place


def numbers_of(labels: list[str], label: str, where: Path) -> list[float]:
    """Raises UserError naming the row of one that is no finite number, as a net's are (float32)."""
    found = [number if number is None or abs(number) < LARGEST else None for number in map(rating, labels)]
    if None in found:
        row = found.index(None)
        raise UserError(f"{where}: row {row + 1}: {label!r} says {labels[row]!r}, no number (`targets: numbers`)")
    return [float(number) for number in found if number is not None]


def can_be_learnt(numbers: list[float], label: str, where: Path) -> None:
    """Raises UserError for numbers of one value, and for such as no net reaches that begins near 0."""
    middle, spread = mean(numbers), pstdev(numbers)
    if not spread > 0:
        raise UserError(f"{where}: column {label!r} has one value, {numbers[0]:g}: nothing to learn")
    if abs(middle) > FARTHEST or not 1 / FARTHEST < spread < FARTHEST:
        raise UserError(
            f"{where}: column {label!r} has a mean of {middle:g} and a deviation of {spread:g}; nets begin near 0 and "
            f"learn in steps of a learning rate: bring both below {FARTHEST:g}, best to 0 and 1 (a logarithm of prices)"
        )


def in_order(names: set[str]) -> list[str]:
    """Sorted; as numbers where all are numbers."""
    numbers = {name: rating(name) for name in names}
    return sorted(names, key=None if None in numbers.values() else lambda name: (numbers[name], name))


def numbered(texts: Sequence[Text], labels: list[str], classes: tuple[str, ...], where: Path) -> Labelled:
    place = {name: number for number, name in enumerate(classes)}
    strange = next((row for row, name in enumerate(labels) if name not in place), None)
    if strange is not None:
        what = unknown("class", labels[strange], classes)
        if len(classes) > 2 and all(rating(name) is not None for name in (labels[strange], *classes)):
            what += "; nets tell classes here: `targets: numbers` has them learn numbers (regression)"
        raise UserError(f"{where}: row {strange + 1}: {what}")
    return Labelled(texts, [place[name] for name in labels])

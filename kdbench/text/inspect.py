"""A look at texts of one's own: columns, classes, counts, lengths, what stands twice."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from mimetypes import guess_type
from pathlib import Path
from statistics import mean, pstdev

from kdbench.counted import Counted
from kdbench.errors import UserError
from kdbench.method.metric import rating
from kdbench.plain import doing, several
from kdbench.text.folder import Columns, can_be_learnt, read
from kdbench.text.tables import KINDS, PARTS, Row, files_of, part_of, rows_of, text_files

SCORES = ("score", "rating", "similarity", "grade", "value", "price")  # of columns that may be numbers to learn
MOST_RATINGS = 10  # different numbers that are still taken for classes
LABELS = ("label", "labels", "class", "category", "target", "topic", "sentiment")
MOST_CLASSES = 200  # of a column that is guessed to be the label
LENGTHS = (16, 32, 64, 128, 256, 512)
PIECES = 1.4  # of a word, that a byte-level tokenizer makes: English prose, and room for what frames a text
LEAST_HELD_OUT = 20  # texts that a correlation is chosen by
COVERED = 0.95  # of the texts that are not cut


@dataclass(frozen=True)
class Found(Counted):
    """What was found. `words`: of a text, median and where 95% end.

    `numbers`: those that are to be learnt in the place of classes, of training and test texts.
    """

    columns: Columns
    words: tuple[int, int]
    leaks: int  # test texts that stand in the training set word by word
    twice: int  # training texts that stand there before
    of_two: int  # texts with two labels
    both: bool  # are there val and test?
    numbers: tuple[Sequence[float], Sequence[float]] | None = None

    @property
    def num_train(self) -> int:
        return len(self.numbers[0]) if self.numbers else super().num_train

    @property
    def num_test(self) -> int:
        return len(self.numbers[1]) if self.numbers else super().num_test

    @property
    def contents(self) -> str:
        what = "numbers to learn" if self.numbers else f"{len(self.counts)} classes"
        return f"{what}, {self.num_train} texts to train on, {self.num_test} to test"

    @property
    def can_hold_out(self) -> bool:
        """Is a tenth of the training texts enough for one of every class (of numbers for a correlation)?"""
        return self.num_train >= 10 * LEAST_HELD_OUT if self.numbers else super().can_hold_out

    @property
    def length(self) -> int:
        """Places that the suite cuts texts to."""
        return next((length for length in LENGTHS if length >= PIECES * self.words[1] + 2), LENGTHS[-1])


def place_of(root: Path) -> Path:
    """The folder of texts that `root` is, or whose `train` or other part it is. Raises UserError for a lone table."""
    if not root.is_file():
        return root
    if root.stem in {name for names in PARTS.values() for name in names}:
        return root.parent
    raise UserError(f"{root}: one table alone; split it into train{root.suffix} and val{root.suffix} in one folder")


def holds_texts(root: Path) -> bool:
    """Are there tables, or .txt in folders of classes, more than pictures (beside which notes may lie)?"""
    if root.is_file():
        return root.suffix.lower() in KINDS
    found = [path for name in PARTS["train"] for path in files_of(root, name)]
    folders = [path for path in found if path.is_dir()]
    texts, pictures = (sum(len(of(path)) for path in folders) for of in (text_files, picture_files))
    return texts > pictures or (not pictures and any(path.is_file() for path in found))


def picture_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/**/*") if (guess_type(path.name)[0] or "").startswith("image/")]


def inspect(root: Path) -> Found:
    """Raises UserError as `text_folder` does, and where it can't tell which column is what."""
    place = part_of(root, "train")
    both = len([path for name in PARTS["test"] for path in files_of(root, name)]) > 1
    named = Columns("text", "label") if place.is_dir() else guessed(rows_of(place), place)
    columns = replace(named, judged_on="test" if both else None)
    train, test, classes = read(root, columns)
    of_train, of_test = Counter(train.labels), Counter(test.labels)
    seen = dict(zip(train.texts, train.labels, strict=True))
    lengths = sorted(len(str(text).split()) for text in train.texts)
    return Found(
        root,
        {name: (of_train[number], of_test[number]) for number, name in enumerate(classes)},
        columns,
        (lengths[len(lengths) // 2], lengths[int(COVERED * (len(lengths) - 1))]),
        sum(text in seen for text in test.texts),
        len(train.texts) - len(seen),
        len({text for text, label in zip(train.texts, train.labels, strict=True) if seen[text] != label}),
        both,
        None if classes else (train.labels, test.labels),
    )


def guessed(rows: Sequence[Row], place: Path) -> Columns:
    """`text` and `label` where they are called so; else the longest column, and the one of the fewest values.

    A label of more than a few different numbers is to be learnt as numbers.
    """
    names = [str(name) for name in rows[0]]
    values = {name: [str(row.get(name)) for row in rows] for name in names}
    text = "text" if "text" in names else max(names, key=lambda name: sum(map(len, values[name])))
    rest = [name for name in names if name != text]
    known = [name for name in rest if name.casefold() in LABELS]
    few = {name: len(set(values[name])) for name in rest}
    able = [name for name in rest if 2 <= few[name] <= min(MOST_CLASSES, len(rows) // 2)]
    scores = [name for name in rest if name.casefold() in SCORES or name in known if are_numbers(values[name])]
    if not known and not able and not scores:
        raise UserError(f"{place}: which column is the label? none of {', '.join(rest) or 'the others'} has few values")
    label = (known or sorted(able, key=lambda name: few[name]) or scores)[0]
    learnt = label in scores and (label not in able or are_near(values[label]))
    return Columns(text, label, targets="numbers" if learnt else None)


def are_near(values: Sequence[str]) -> bool:
    """Numbers that nets reach? Codes such as 250.13 are far from 0: what can be classes is not refused for that."""
    try:
        can_be_learnt([float(value) for value in values], "", Path())
    except UserError:
        return False
    return True


def are_numbers(values: Sequence[str]) -> bool:
    """Numbers that are no classes: more than a few different ones, some of them not whole."""
    found = [rating(value) for value in values]
    if None in found or len(set(found)) <= MOST_RATINGS:
        return False
    return any(number is not None and number != int(number) for number in found)


def about(found: Found) -> list[str]:
    middle, most = found.words
    lines = [
        f"{found.root}: {found.contents}; texts are in the column {found.columns.text!r}, labels in "
        f"{found.columns.label!r}",
        f"words of a text: median {middle}, 95% have {most} or fewer; cut to {found.length} places",
    ]
    lines += found.of_classes("texts", " (macro_f1?)") if found.numbers is None else [of_numbers(found.numbers[0])]
    if found.leaks:
        leaks = doing(found.leaks, "test text", "stand")
        lines.append(f"{leaks} in the training set word by word, which flatters every score")
    if found.twice:
        lines.append(f"{doing(found.twice, 'training text', 'stand')} there twice")
    if found.of_two:
        lines.append(f"{several(found.of_two, 'training text')} with two labels")
    if found.both:
        lines.append("there are both val and test: nets are judged on test, and val is not read")
    return lines


def of_numbers(numbers: Sequence[float]) -> str:
    return (
        f"numbers from {min(numbers):g} to {max(numbers):g}, mean {mean(numbers):.3g}, "
        f"deviation {pstdev(numbers):.3g}: they are learnt as they stand (regression)"
    )

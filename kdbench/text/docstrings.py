"""Real English that lies on every machine: documentation strings, to be told apart by the package they belong to.

They are read from the source files of Python's standard library and of packages that kdbench needs anyway; nothing is
imported. Names of packages are taken out, so that a text must be told by its subject. Training and test texts come from
different files. Another version of a package has other texts: what was read is hashed into the key.
"""

import ast
import hashlib
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdbench.data import Splits, register_dataset
from kdbench.digest import digest_of_files
from kdbench.errors import UserError
from kdbench.files import cache_folder, write_atomic
from kdbench.method.contract import Task
from kdbench.text.batches import AUGMENTS
from kdbench.text.corpus import Labelled, Length, Tokens, Vocabulary, prepare, splits_of, unread
from kdbench.text.tokens import MADE

STDLIB = "python"
PACKAGES = {STDLIB: "", "matplotlib": "matplotlib", "mlflow": "mlflow", "numpy": "numpy", "pandas": "pandas",
            "scikit-learn": "sklearn", "scipy": "scipy"}  # fmt: skip
NAMES = re.compile(r"python|matplotlib|pyplot|mlflow|numpy|pandas|scikit-?learn|scikit|sklearn|scipy"
                   r"|(?<![a-z])(?:mpl|plt|np|pd)(?![a-z])", re.I)  # fmt: skip
NOT_READ = {"test", "tests", "testing", "site-packages", "dist-packages", "idlelib", "_vendor", "__pycache__"}
FEWEST, MOST = 8, 120  # words of a text: shorter ones say nothing, longer ones are cut
PER_FILE = 20  # texts, so that no large file is all there is of a package
TESTED = 4  # a fourth as many test texts as training texts

PerClass = Annotated[int, Field(ge=8, le=2000)]
Parts = tuple[list[list[str]], list[list[str]]]  # training and test texts, by class


def info(data_dir: Path, per_class: int, tokenizer: str, second: str | None, vocabulary: int, length: int) -> Task:
    counts = (len(PACKAGES) * per_class, len(PACKAGES) * (per_class // TESTED))
    return unread(tuple(PACKAGES), Tokens(tokenizer, second, vocabulary, length), counts)


def digest(data_dir: Path, per_class: int, tokenizer: str, second: str | None, vocabulary: int, length: int) -> str:
    files = digest_of_files(Tokens(tokenizer, second, vocabulary, length).files())
    return hashlib.sha256(json.dumps([texts_of_packages(per_class), files]).encode()).hexdigest()[:32]


def beside(
    data_dir: Path, per_class: int, tokenizer: str, second: str | None, vocabulary: int, length: int
) -> dict[str, bytes]:
    texts = labelled(texts_of_packages(per_class)[0]).texts
    return Tokens(tokenizer, second, vocabulary, length).beside(texts)


@register_dataset("docstrings", info=info, digest=digest, augments=AUGMENTS, prepare=prepare, beside=beside)
def docstrings(
    data_dir: Path,
    per_class: PerClass = 600,
    tokenizer: str = MADE,
    second: str | None = None,
    vocabulary: Vocabulary = 4000,
    length: Length = 64,
) -> Splits:
    """Documentation strings of seven installed packages, to be told apart by package: no download.

    `per_class` training texts of each, and a fourth as many to test, from other files. `tokenizer`: `bpe` (made of the
    training texts, `vocabulary` entries), a folder with tokenizer.json, or a name on the hub; `second`: another one for
    nets with `reads: second`. Texts are cut to `length` places.
    """
    train, test = (labelled(part) for part in texts_of_packages(per_class))
    return splits_of(train, test, tuple(PACKAGES), Tokens(tokenizer, second, vocabulary, length))


def labelled(by_class: list[list[str]]) -> Labelled:
    return Labelled(
        [text for texts in by_class for text in texts],
        [label for label, texts in enumerate(by_class) for _ in texts],
    )


def texts_of_packages(per_class: int) -> Parts:
    """Of each package; what was read of the same versions before comes from the disk."""
    versions = {name: versions_of(name) for name in PACKAGES}
    name = hashlib.sha256(json.dumps([2, per_class, versions]).encode()).hexdigest()[:32]
    place = cache_folder("text") / f"docstrings-{name}.json"
    with suppress(OSError, ValueError):
        train, test = json.loads(place.read_bytes())
        return train, test
    seen: set[str] = set()
    found = [texts_of_package(name, per_class, seen) for name in PACKAGES]
    parts = [train for train, _ in found], [test for _, test in found]
    write_atomic(place, json.dumps(parts).encode())
    return parts


def versions_of(name: str) -> list[str]:
    return [str(root_of(name)), platform.python_version() if name == STDLIB else version(name)]


def root_of(name: str) -> Path:
    """The folder of a package's source files. Raises UserError where it has none."""
    if name == STDLIB:
        return Path(sysconfig.get_path("stdlib"))
    spec = find_spec(PACKAGES[name])
    if spec is None or not spec.origin:
        raise UserError(f"data set docstrings: {name} is not installed as files")
    return Path(spec.origin).parent


def texts_of_package(name: str, per_class: int, seen: set[str]) -> tuple[list[str], list[str]]:
    """(training, test): the files in an order that depends on their names alone, the first ones to test.

    `seen`: texts of packages before it, which are passed over; its own are added.
    """
    num_test = per_class // TESTED
    train: list[str] = []
    test: list[str] = []
    last = ""  # the file in which the test texts ended: it has no training texts
    for file, text in texts_below(root_of(name), seen):
        if len(test) < num_test:
            test.append(text)
            last = file
        elif file != last:
            train.append(text)
        if len(train) == per_class:
            return train, test
    raise UserError(f"data set docstrings: {name} has {len(train)} training texts only; lower per_class")


def texts_below(root: Path, seen: set[str]) -> Iterator[tuple[str, str]]:
    """(file, text), none that is among `seen`."""
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    names = [name for name in files if not NOT_READ & set(name.split("/"))]
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        found = [text for text in map(cleaned, docs_in(files[name])) if len(text.split()) >= FEWEST]
        for text in list(dict.fromkeys(found))[:PER_FILE]:
            if text not in seen:
                seen.add(text)
                yield name, text


def docs_in(path: Path) -> Iterator[str]:
    """The documentation strings of a file, in its order; of one that can't be read none."""
    with suppress(OSError, SyntaxError, ValueError, RecursionError):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def cleaned(text: str) -> str:
    """In one line, without examples of code, names of packages, and what is beyond the first 120 words."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith((">>>", "..."))]
    return " ".join(NAMES.sub(" ", " ".join(lines)).split()[:MOST])

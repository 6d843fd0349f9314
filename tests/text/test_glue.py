"""GLUE through a stand-in for `datasets`: columns, classes, metrics; and what is said where something is off.

Its identity on files as `datasets` leaves them.
"""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from kdbench.data import DATASETS, NOT_THERE, digest_of, load_splits, task_of
from kdbench.errors import UserError
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_methods
from kdbench.text import glue
from kdbench.text.glue import TASKS, Name

load_methods()


class Rows(dict[str, Any]):
    """As `datasets.Dataset`: columns by name, and the names of the labels."""

    def __init__(self, task: str, count: int, names: tuple[str, ...]) -> None:
        columns = {name: [f"{name} {k} of a text" for k in range(count)] for name in TASKS[task].columns}
        super().__init__(columns, label=[k % len(names) if names else k % 26 / 5 for k in range(count)])
        self.features = {"label": SimpleNamespace(names=list(names)) if names else SimpleNamespace(dtype="float32")}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    asked: list[tuple[str, str]] = []

    def load(place: str, task: str, split: str, cache_dir: str) -> Rows:
        assert place == "nyu-mll/glue"
        asked.append((task, split))
        return Rows(task, 24 if split == "train" else 12, TASKS[task].classes)

    monkeypatch.setattr(glue, "optional", lambda name: SimpleNamespace(load_dataset=load))
    return asked


def settings(**changes: Any) -> dict[str, Any]:
    found, wrong = DATASETS.settings("glue", {"vocabulary": 300, "length": 16, **changes})
    assert not wrong
    return found


@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str, hub: list[tuple[str, str]], tmp_path: Path) -> None:
    splits = load_splits("glue", settings(subset=task), tmp_path)
    assert hub == [(task, "train"), (task, "validation_matched" if task == "mnli" else "validation")]
    metrics = {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"}
    assert splits.metric == metrics.get(task, "top1")
    assert splits.classes == TASKS[task].classes
    assert (len(splits.train), len(splits.test)) == (24, 12)
    unread = task_of("glue", settings(subset=task), tmp_path)
    assert (unread.inputs, unread.metric, unread.classes) == (splits.task.inputs, splits.metric, splits.classes)
    assert (unread.kind, unread.num_classes) == (splits.task.kind, splits.num_classes)


def test_similarities_are_numbers(hub: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load_splits("glue", settings(subset="stsb"), tmp_path, 0.25)
    assert (splits.task.kind, splits.num_classes, len(splits.train), len(splits.validation)) == ("numbers", 1, 18, 6)
    assert splits.test.targets[:6].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    turned = SimpleNamespace(load_dataset=lambda *_, **__: Rows("stsb", 4, ("alike", "not")))
    monkeypatch.setattr(glue, "optional", lambda name: turned)
    with pytest.raises(UserError, match="stsb has the classes alike, not; expected none, but numbers"):
        load_splits("glue", settings(subset="stsb"), tmp_path)


def test_names_are_those_of_the_table() -> None:
    assert set(get_args(Name)) == set(TASKS)


def test_labels_in_another_order_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned = SimpleNamespace(load_dataset=lambda *_, **__: Rows("rte", 4, ("not_entailment", "entailment")))
    monkeypatch.setattr(glue, "optional", lambda name: turned)
    with pytest.raises(UserError, match="rte has the classes not_entailment, entailment; expected entailment, not"):
        load_splits("glue", settings(subset="rte"), tmp_path)


def test_without_a_network_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Rows:
        raise ConnectionError("no route")

    monkeypatch.setattr(glue, "optional", lambda name: SimpleNamespace(load_dataset=load))
    with pytest.raises(UserError, match=r"rte could not be had from nyu-mll/glue \(ConnectionError: no route\)"):
        load_splits("glue", settings(subset="rte"), tmp_path)


def test_the_suites_have_every_task_but_the_one_that_nobody_learns() -> None:
    """Rows on classes mean nothing where numbers are learnt: STS-B has a suite of its own."""
    suite, numbers = (load_suite(Path(__file__).parents[2] / "suites" / f"{name}.yaml") for name in ("glue", "stsb"))
    assert {dataset.settings["subset"] for dataset in suite.datasets} == set(TASKS) - {"wnli", "stsb"}
    assert len(cells_of(suite)) == 7 * 2 * 7 * 3
    assert [dataset.settings["subset"] for dataset in numbers.datasets] == ["stsb"]
    first, other = cells_of(numbers)[0], cells_of(suite)[0]
    assert (first.pair, first.train, first.teacher_train) == (other.pair, other.train, other.teacher_train)
    assert len(cells_of(numbers)) == 2 * 8 * 3


def keep(data_dir: Path, part: str, texts: list[str], **more: list[Any]) -> Path:
    """As `datasets` leaves a download of rte behind."""
    datasets = pytest.importorskip("datasets", reason="the extra `hub` is not installed")
    about = TASKS["rte"]
    labels = datasets.ClassLabel(names=list(about.classes))
    columns = dict.fromkeys(about.columns, texts) | {"label": [k % 2 for k in range(len(texts))]} | more
    made = datasets.Dataset.from_dict(columns).cast_column("label", labels)
    made.save_to_disk(str(data_dir / "made"))
    place = data_dir / "glue" / "nyu-mll___glue" / "rte" / "0.0.0" / "bcdcba79" / f"glue-{part}.arrow"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(data_dir / "made" / "data-00000-of-00001.arrow", place)
    shutil.rmtree(data_dir / "made")
    return place


def test_its_texts_are_its_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    rte = settings(subset="rte")
    assert digest_of("glue", rte, tmp_path) == NOT_THERE  # nothing is kept here, and nobody answers
    train, test = [f"text {k}" for k in range(24)], [f"another {k}" for k in range(12)]
    file = keep(tmp_path, "train", train)
    assert digest_of("glue", rte, tmp_path) == NOT_THERE
    keep(tmp_path, "validation", test)
    first = digest_of("glue", rte, tmp_path)
    splits = load_splits("glue", rte, tmp_path)  # with no network
    assert (len(splits.train), len(splits.test)) == (24, 12)
    os.utime(file, (1, 1))
    assert digest_of("glue", rte, tmp_path) == first
    keep(tmp_path, "train", train, idx=[*range(24)])  # another file of the same texts
    assert digest_of("glue", rte, tmp_path) == first
    monkeypatch.setattr(glue, "part_of", None)
    assert digest_of("glue", rte, tmp_path) == first  # read once, then kept
    monkeypatch.undo()
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    keep(tmp_path, "train", [*train[:-1], "text 2E"])
    assert digest_of("glue", rte, tmp_path) != first
    keep(tmp_path, "train", train)
    assert digest_of("glue", rte, tmp_path) == first
    keep(tmp_path, "validation", test[::-1])
    assert digest_of("glue", rte, tmp_path) != first


def test_what_is_not_there_yet_is_downloaded_before_there_are_keys(
    hub: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glue, "within_reach", lambda: True)
    digest = digest_of("glue", settings(subset="rte"), tmp_path)
    assert hub == [("rte", "train"), ("rte", "validation")]
    assert digest not in ("", NOT_THERE, digest_of("glue", settings(subset="qnli"), tmp_path))

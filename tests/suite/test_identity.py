"""What decides a number is in its key: the pictures, and the code that came in by a plugin; nothing else is."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import STUDENT, TEACHER
from PIL import Image

from kdbench.data import DATASETS, NOT_THERE
from kdbench.errors import UserError
from kdbench.method.metric import METRICS
from kdbench.method.register import METHODS
from kdbench.registry import foreign_code
from kdbench.suite.cells import Cell, cells_of
from kdbench.suite.load import load_suite
from kdbench.suite.plugins import load_plugin
from kdbench.vision.folder import pictures

FOLDER = {"name": "folder", "path": "pics", "size": 8}


def write_pictures(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 3) -> Path:
    draw = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture
def cells(tmp_path: Path, suite_file: Callable[..., Path]) -> Callable[..., list[Cell]]:
    """The cells of a suite on the folder `pics` of `data`."""
    write_pictures(tmp_path / "data" / "pics")
    suite = suite_file(datasets=[FOLDER, "digits"])
    return lambda data="data": cells_of(load_suite(suite), data_dir=tmp_path / data)


def keys(cells: list[Cell], dataset: str) -> list[str]:
    return [cell.key for cell in cells if cell.dataset.name == dataset]


def picture(tmp_path: Path) -> Path:
    return tmp_path / "data" / "pics" / "train" / "cat" / "0.png"


CHANGES: dict[str, Callable[[Path], object]] = {
    "added": lambda path: path.with_name("new.png").write_bytes(path.read_bytes()),
    "moved": lambda path: path.rename(path.parents[1] / "dog" / "moved.png"),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"),
    "removed": lambda path: path.unlink(),
    "a class more": lambda path: (path.parents[1] / "cow").mkdir(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_pictures_other_keys(
    cells: Callable[..., list[Cell]], tmp_path: Path, change: Callable[[Path], object]
) -> None:
    before = cells()
    change(picture(tmp_path))
    after = cells()
    assert not set(keys(before, "folder")) & set(keys(after, "folder"))
    assert {c.teacher_key for c in before if c.dataset.name == "folder"}.isdisjoint(c.teacher_key for c in after)
    assert keys(before, "digits") == keys(after, "digits")


def test_times_and_other_files_change_no_key(cells: Callable[..., list[Cell]], tmp_path: Path) -> None:
    before = cells()
    os.utime(picture(tmp_path), (1, 1))
    picture(tmp_path).with_name("notes.txt").write_text("not read")
    assert keys(cells(), "folder") == keys(before, "folder")


def test_another_data_folder(cells: Callable[..., list[Cell]], tmp_path: Path) -> None:
    write_pictures(tmp_path / "other" / "pics", count=2)
    assert keys(cells(), "folder") != keys(cells("other"), "folder")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert [cell.data for cell in cells() if cell.dataset.name == "folder"] == [NOT_THERE] * 2
    write_pictures(tmp_path / "data" / "pics")
    assert keys(cells(), "folder") == keys(cells("moved"), "folder")  # where they lie counts for nothing


def test_what_was_hashed_is_kept(
    cells: Callable[..., list[Cell]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdbench.digest.JUST_NOW", 0)
    before, read = cells(), []
    monkeypatch.setattr("kdbench.digest._hash", lambda path: read.append(path) or "hash")
    assert keys(cells(), "folder") == keys(before, "folder")
    assert not read
    picture(tmp_path).write_bytes(b"of another size")
    cells()
    assert read == [str(picture(tmp_path))]


def test_a_file_written_just_now_is_hashed_again(cells: Callable[..., list[Cell]], tmp_path: Path) -> None:
    """A second change within one tick of the clock would leave the same size and time."""
    path = picture(tmp_path)
    before, about = cells(), path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert keys(cells(), "folder") != keys(before, "folder")


def test_names_that_are_no_utf8_are_refused_with_their_path(cells: Callable[..., list[Cell]], tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path / "data" / "pics" / "train") + b"/caf\xe9")
    with pytest.raises(UserError, match=r"caf\\xe9: its name is not valid UTF-8"):
        cells()


PLUGIN = """\
from kdbench import Method, register_method
@register_method("edited")
class Edited(Method):
    def forward(self, student, teacher, batch):
        return {"edited": 1.0 * (student.logits - teacher.logits).square().mean()}
"""


def test_an_edited_method_is_another(tmp_path: Path, suite_file: Callable[..., Path]) -> None:
    path = tmp_path / "plugin.py"
    suite = suite_file(plugins=["plugin.py"], methods={"ce": {"ce": 1}, "edited": {"ce": 1, "edited": 1}})

    def found(text: str) -> list[tuple[str, str, str]]:
        path.write_text(text)
        return [(cell.key, cell.teacher_key, cell.cohort) for cell in cells_of(load_suite(suite))]

    before, after = found(PLUGIN), found(PLUGIN.replace("1.0", "2.0"))
    assert before[0] == after[0]
    assert before[1][0] != after[1][0]
    assert before[1][1:] == after[1][1:]
    assert found(PLUGIN) == before


DATA_AND_NET = """\
import torch
from torch import nn
from kdbench.method.contract import Task
from kdbench.nets import register_net
from kdbench.data import InMemory, Splits, register_dataset

@register_dataset("twelve", digest=lambda data_dir, count: "numbers 1")
def twelve(data_dir, count: int = 12):
    part = InMemory(torch.arange(float(count))[:, None], torch.arange(count) % 2)
    return Splits(part, part, 2)

@register_net("line")
class Line(nn.Linear):
    def __init__(self, task: Task) -> None:
        super().__init__(1, task.num_classes)
"""


def test_data_sets_and_nets_of_a_plugin(tmp_path: Path, suite_file: Callable[..., Path]) -> None:
    path = tmp_path / "plugin.py"
    pairs = [{"teacher": "cifar_resnet14", "student": "line"}, {"teacher": "line", "student": "cifar_resnet8"}]

    def found(text: str, dataset: str) -> list[tuple[str, str]]:
        path.write_text(text)
        suite = suite_file(plugins=["plugin.py"], datasets=[dataset], pairs=pairs, methods={"ce": {"ce": 1}})
        cells = cells_of(load_suite(suite, models=False))
        assert all(cell.identity.get("data", "").startswith("numbers" * (dataset == "twelve")) for cell in cells)
        return [(cell.key, cell.teacher_key) for cell in cells]

    [first, second], [edited, other] = found(DATA_AND_NET, "digits"), found(DATA_AND_NET + "# edited\n", "digits")
    assert (first[0] == edited[0], first[1] == edited[1]) == (False, True)
    assert (second[0] == other[0], second[1] == other[1]) == (False, False)
    own = found(DATA_AND_NET, "twelve")
    assert not set(own) & set(found(DATA_AND_NET + "# edited\n", "twelve"))
    assert not set(own) & set(found(DATA_AND_NET.replace("numbers 1", "numbers 2"), "twelve"))


def test_what_a_plugin_imports_from_beside_itself(tmp_path: Path) -> None:
    """A file that lies beside it is part of it; another one, and what is installed, is not."""
    (tmp_path / "helper_of_edited.py").write_text("def scale(x): return x\n")
    (tmp_path / "stranger_to_edited.py").write_text("")
    head = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom helper_of_edited import scale\nsys.path.pop(0)\n"
    (tmp_path / "plugin.py").write_text("import torch\n" + head + PLUGIN.replace("edited", "helped"))
    load_plugin(tmp_path / "plugin.py")
    before = METHODS.code("helped")
    (tmp_path / "stranger_to_edited.py").write_text("# edited\n")
    assert foreign_code(METHODS["helped"]) == before
    (tmp_path / "helper_of_edited.py").write_text("def scale(x): return 2 * x\n")
    assert foreign_code(METHODS["helped"]) != before


def test_a_number_that_a_plugin_imports_from_beside_itself(tmp_path: Path) -> None:
    """It does not tell where it comes from; the import line does."""
    (tmp_path / "number_of_edited.py").write_text("SCALE = 1\n")
    head = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom number_of_edited import SCALE\nsys.path.pop(0)\n"
    (tmp_path / "plugin.py").write_text("import torch\n" + head + PLUGIN.replace("edited", "numbered"))
    load_plugin(tmp_path / "plugin.py")
    before = METHODS.code("numbered")
    (tmp_path / "number_of_edited.py").write_text("SCALE = 2\n")
    assert foreign_code(METHODS["numbered"]) != before


TRANSFORM = """
from kdbench import Conversion, Reshape, register_transform

@register_transform("to_file")
class ToFile(Conversion):
    pass
"""
CALLS = """
from kdbench import Reshape, register_transform

@register_transform("calls_for_a_file")
class Calls(Reshape):
    files = (("to_file", {}),)
"""


@pytest.mark.parametrize("raised", ["RuntimeError('no luck')", "SystemExit(0)", "KeyboardInterrupt"])
def test_a_transform_that_can_t_be_made_is_a_mistake_of_the_suite(
    tmp_path: Path, suite_file: Callable[..., Path], raised: str
) -> None:
    (tmp_path / "calls.py").write_text(f"{CALLS}    def __init__(self) -> None:\n        raise {raised}\n")
    pair = {"teacher": TEACHER, "student": {**STUDENT, "transforms": ["calls_for_a_file"]}}
    with pytest.raises(UserError, match=r"suite.yaml:\d+: .*calls_for_a_file: can't be made: "):
        load_suite(suite_file(pairs=[pair], plugins=["calls.py"]))


def test_an_edited_conversion_that_a_transform_calls_for_is_another(
    tmp_path: Path, suite_file: Callable[..., Path]
) -> None:
    pair = {"teacher": TEACHER, "student": {**STUDENT, "transforms": ["calls_for_a_file"]}}
    (tmp_path / "calls.py").write_text(CALLS)

    def found(source: str) -> list[str]:
        (tmp_path / "to_file.py").write_text(source)
        suite = suite_file(pairs=[pair], plugins=["to_file.py", "calls.py"])
        return [cell.key for cell in cells_of(load_suite(suite))]

    before = found(TRANSFORM)
    assert found(TRANSFORM) == before
    assert not set(found(TRANSFORM.replace("pass", "operators = ()"))) & set(before)


METRIC = """
from functools import partial
from kdbench.method.metric import METRICS, Metric

def share(predicted, targets, of=1):
    return float((predicted == targets).double().mean()) * 100

METRICS["share"] = Metric("share", "share", "share", "%", partial(share, of=1))
"""


def test_an_edited_metric_is_another(
    tmp_path: Path, suite_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METRICS, "share", raising=False)
    (tmp_path / "data" / "texts").mkdir(parents=True)
    for part in ("train", "val"):
        (tmp_path / "data" / "texts" / f"{part}.csv").write_text("text,label\ngood,yes\nbad,no\n")
    dataset = {"name": "text_folder", "path": "texts", "vocabulary": 300}
    plugin = tmp_path / "metric.py"

    def found(metric: str, source: str = METRIC) -> list[str]:
        plugin.write_text(source)
        nets = [{"teacher": "bilstm", "student": "bilstm"}]
        given = {"datasets": [{**dataset, "metric": metric}], "plugins": [str(plugin)], "pairs": nets}
        suite = suite_file(**given, train={"epochs": 1, "batch_size": 8, "lr": 0.1, "augment": "none"})
        return [cell.key for cell in cells_of(load_suite(suite, models=False), data_dir=tmp_path / "data")]

    before, usual = found("share"), found("macro_f1")
    assert found("share") == before
    edited = METRIC.replace("* 100", "* 99")
    assert not set(found("share", edited)) & set(before)
    assert found("macro_f1", edited) == usual


def test_methods_of_our_own_are_known_by_the_version() -> None:
    assert not any(METHODS.code(name) for name in ("ce", "kd", "dkd"))
    assert not any(DATASETS.code(name) for name in ("digits", "folder"))


def test_pictures_are_found_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Their order decides every batch, so it is that of `sorted(Path.rglob("*"))`, also in folders within folders."""
    shown, hidden = ("b/1.png", "b-1.PNG", "b.jpg", "a/c/d.gif", "a/c.d/e.webp"), (".h/f.png", ".i.png", "a/.j/k.png")
    for name in (*shown, *hidden, "l.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "m.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "n.png").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "o").symlink_to(tmp_path / "b", target_is_directory=True)
    os.mkfifo(tmp_path / "p.png")
    found = [path.relative_to(tmp_path).as_posix() for path in pictures(tmp_path)]
    assert found == ["a/c/d.gif", "a/c.d/e.webp", "b/1.png", "b-1.PNG", "b.jpg", "n.png"]
    assert pictures(tmp_path / "b.jpg") == pictures(tmp_path / "nowhere") == []


def test_a_data_set_that_is_registered_anew_has_the_settings_of_now(
    tmp_path: Path, suite_file: Callable[..., Path]
) -> None:
    """As in a notebook, where a plugin is edited and loaded again."""
    path, suite = tmp_path / "twice.py", suite_file(datasets=["registered_twice"], plugins=["twice.py"])
    text = DATA_AND_NET.replace("twelve", "registered_twice")
    path.write_text(text)
    assert "more" not in cells_of(load_suite(suite, models=False))[0].identity["dataset"]
    text = text.replace("data_dir, count: int", "data_dir, more: int = 3, count: int").replace(
        "data_dir, count:", "data_dir, more, count:"
    )
    path.write_text(text)
    assert cells_of(load_suite(suite, models=False))[0].identity["dataset"]["more"] == 3


def test_a_plugin_imports_the_file_beside_it(tmp_path: Path) -> None:
    """Without a word about sys.path; two plugins' files of one name are two, and an edited one is read again."""
    text = (
        "from helper import WEIGHT\nfrom kdbench import Method, register_method\n"
        '@register_method({name!r})\nclass Own(Method):\n    """x"""\n    weight = WEIGHT\n'
    )
    before = list(sys.path)
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "helper.py").write_text(f"WEIGHT = {number}\n")
        (folder / "plugin.py").write_text(text.format(name=f"beside_{name}"))
        load_plugin(folder / "plugin.py")
        assert METHODS[f"beside_{name}"].weight == number
    assert sys.path == before
    assert METHODS.code("beside_first") != METHODS.code("beside_second")
    (tmp_path / "first" / "helper.py").write_text("WEIGHT = 1234\n")
    (tmp_path / "first" / "plugin.py").write_text(text.format(name="beside_first") + "# edited\n")
    load_plugin(tmp_path / "first" / "plugin.py")
    assert METHODS["beside_first"].weight == 1234

"""The tutorials' commands, run as they stand from an empty folder in which only the pages' own files lie."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from kdbench.nets import build_net
from kdbench.suite.spec import ModelSpec
from kdbench.vision.batches import picture_task

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("one_thread")


def commands(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).splitlines()
    return [shlex.split(line)[1:] for line in lines]


def files(page: str, folder: Path) -> None:
    """The blocks with a title are files; what they include is read as the site does."""
    text = (ROOT / "docs" / "tutorials" / f"{page}.md").read_text(encoding="utf-8")
    for name, content in re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', text, re.DOTALL):
        whole = re.sub(r'--8<-- "([^"]+)"', lambda match: (ROOT / match[1]).read_text(encoding="utf-8"), content)
        (folder / name).write_text(whole)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waves(folder: Path, count: int, side: int = 48, told: bool = True) -> None:
    """Pictures of two classes, waves that run across or down; where not `told`, the classes are drawn by lot."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    for number in range(count):
        kind = number % 2
        shown = kind if told else int(draw.integers(2))
        colours = Image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((side, side))
        wave = 60 * np.sin(2 * np.pi * draw.uniform(3, 7) * (x if shown else y) + draw.uniform(0, 6))
        path = folder / ("val" if number % 5 < 2 else "train") / ("across", "down")[kind] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.asarray(colours, dtype=np.float64) + wave[..., None], 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)


def test_every_page_has_its_test() -> None:
    assert {path.stem for path in PAGES} == {"photographs", "own-teacher", "new-method", "review"}
    assert all(commands(path.stem) for path in PAGES)


def test_an_own_teacher(kdbench: Run, here: Path) -> None:
    files("own-teacher", here)
    net = build_net(ModelSpec(model="cifar_resnet14"), picture_task(10, 8), "elsewhere")
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.model.state_dict().items()}}, here / "teacher.pth")
    for words in commands("own-teacher"):
        code, out, err = kdbench(*words, results=here / "results")
        assert code == 0, err
    assert "| kd " in out


def short(path: Path) -> None:
    """With two epochs and one seed."""
    suite = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**suite, "seeds": [0], "validation": 0, "train": {"epochs": 2}}), encoding="utf-8")


def test_a_new_method(kdbench: Run, here: Path) -> None:
    files("new-method", here)
    short(here / "mine.yaml")
    for words in commands("new-method"):
        code, out, err = kdbench(*words, results=here / "results")
        assert code == 0, err
    assert "p=1.0" in out  # the last command told its settings


def test_losses_from_elsewhere(kdbench: Run, here: Path) -> None:
    files("new-method", here)
    rows = dict.fromkeys(("kd", "dkd", "fitnet", "sp", "rkd", "pkt", "kd+sp+rkd"))
    rows |= {"factor": {"ce": 1, "factor": 10}, "map_similarity": {"ce": 1, "map_similarity": 10}}
    suite = {"extends": "quickstart", "name": "theirs", "plugins": ["theirs.py"], "methods": rows}
    (here / "theirs.yaml").write_text(yaml.safe_dump(suite))
    short(here / "theirs.yaml")
    code, out, err = kdbench("run", "theirs.yaml", results=here / "results")
    assert code == 0, err
    assert all(f"| {name} " in out for name in ("factor", "map_similarity"))


@pytest.mark.slow
def test_photographs(kdbench: Run, here: Path) -> None:
    """Two classes that a small net can tell: the student is surely above guessing, and is delivered."""
    waves(here / "photos", 250)
    first, second, third, export = commands("photographs")
    for words in (first, second, third):
        code, out, err = kdbench(*words, results=here / "results")
        assert code == 0, err
    assert "Ship cifar_resnet8" in out
    key = re.search(r"kdbench export (\w+)", out)
    assert key is not None
    assert kdbench(*[key[1] if word == "KEY" else word for word in export], results=here / "results")[0] == 0
    assert (here / "student.onnx").stat().st_size > 1000


@pytest.mark.slow
def test_photographs_of_which_nothing_can_be_learnt(kdbench: Run, here: Path) -> None:
    waves(here / "photos", 250, told=False)
    first, second, third, _ = commands("photographs")
    for words in (first, second, third):
        code, out, err = kdbench(*words, results=here / "results")
        assert code == 0, err
    assert "Ship nothing yet" in out


@pytest.mark.slow
def test_a_review(kdbench: Run, here: Path) -> None:
    suite = {"extends": "quickstart", "name": "quickstart"}
    (here / "quickstart.yaml").write_text(yaml.safe_dump(suite))
    short(here / "quickstart.yaml")
    assert kdbench("run", "quickstart.yaml", results=here / "results")[0] == 0
    for words in commands("review"):
        words = ["quickstart.yaml" if word == "quickstart" else word for word in words]
        at = words.index("--results") if "--results" in words else len(words)
        code, _, err = kdbench(*words[:at], *words[at + 2 :], results=here / "results")
        assert code == 0, err

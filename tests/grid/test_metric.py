"""A data set says what its nets are judged by, and everything else follows: curves, records, tables, advice."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdbench.errors import UserError
from kdbench.method.metric import METRICS
from kdbench.results.schema import judged

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
PLUGIN = f"""
from dataclasses import replace
from kdbench import register_dataset
from kdbench.suite.plugins import load_plugin
from pathlib import Path

load_plugin(Path({str(ROOT / "examples" / "vectors.py")!r}))
from kdbench.data import DATASETS

@register_dataset("uneven")
def uneven(data_dir: Path):
    return replace(DATASETS["tumours"](data_dir), metric={{metric!r}})
"""
pytestmark = pytest.mark.usefixtures("one_thread", "quick_profile")


def values(name: str) -> float:
    """Of eight predictions: class 0 is met 3 times of 4, class 1 once of 3, class 2 once of 1; one of 1 is called 0."""
    predicted, targets = torch.tensor([0, 0, 0, 1, 0, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 2])
    function = METRICS[name].of
    assert function is not None
    return function(predicted, targets)


def test_hand_worked_values() -> None:
    # class 0: precision 3/4, recall 3/4; class 1: 1/2, 1/3; class 2: 1/2, 1
    assert values("macro_f1") == pytest.approx(100 * (3 / 4 + 2 / 5 + 2 / 3) / 3)
    assert values("f1") == pytest.approx(100 * 2 / 5)
    # (5 right x 8 - (4 x 4 + 2 x 3 + 2 x 1)) / sqrt((64 - 16 - 4 - 4) (64 - 16 - 9 - 1)): Gorodkin 2004, eq. 8
    assert values("matthews") == pytest.approx(100 * (40 - 24) / (40 * 38) ** 0.5)


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[str], Path]:
    def write(metric: str) -> Path:
        (tmp_path / "uneven.py").write_text(PLUGIN.replace("{metric!r}", repr(metric)))
        text: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "vectors.yaml").read_text())
        text |= {"name": "uneven", "plugins": ["uneven.py"], "datasets": ["uneven"], "seeds": [0, 1], "validation": 0.2}
        text["train"] |= {"epochs": 2}
        path = tmp_path / "uneven.yaml"
        path.write_text(yaml.safe_dump(text))
        return path

    return write


@pytest.mark.parametrize("name", ["macro_f1", "matthews"])
def test_a_data_set_s_own_metric(suite: Callable[[str], Path], kdbench: Run, tmp_path: Path, name: str) -> None:
    code, out, err = kdbench("run", suite(name))
    assert code == 0, err
    metric = METRICS[name]
    assert f"| {metric.head} " in " ".join(out.split()) or f" {metric.head} |" in out
    assert "top-1" not in out
    for path in (tmp_path / "results" / "uneven" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        scores, curve = record["scores"], record["curves"][metric.test]
        assert record["metric"] == name
        assert scores[metric.test] == curve[-1]
        assert scores[metric.best] == max(curve)
        held_out = record["curves"][metric.validation]
        assert scores[metric.chosen] == curve[held_out.index(max(held_out))]
        assert scores[metric.teacher] <= 100
        assert scores[metric.test] != scores["test_top1"]
    code, out, err = kdbench("recommend", suite(name))
    assert code == 0, err
    assert f"{metric.unit}" in out
    assert metric.title in out
    page = (tmp_path / "results" / "uneven" / "leaderboard.html").read_text()
    assert metric.head in page
    assert "top-1 %" not in page


def test_a_metric_that_there_is_not(suite: Callable[[str], Path], kdbench: Run) -> None:
    code, _, err = kdbench("run", suite("macro_f2"))
    assert code == 2
    assert "unknown metric 'macro_f2'" in err
    assert "macro_f1" in err


def test_a_record_without_its_own_score_is_not_believed(
    suite: Callable[[str], Path], kdbench: Run, tmp_path: Path
) -> None:
    assert kdbench("run", suite("macro_f1"))[0] == 0
    path = next((tmp_path / "results" / "uneven" / "records").glob("*.json"))
    record = json.loads(path.read_text())
    del record["scores"]["test_macro_f1"]
    with pytest.raises(UserError, match="done without a score"):
        judged(json.dumps(record).encode())

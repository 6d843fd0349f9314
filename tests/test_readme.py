"""What README shows works as it stands: every block of it has a test, here or where its section is tested."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import without_measures
from documents import README, readme_block

from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite
from kdbench.train.arithmetic import NARROW, Verdicts

Run = Callable[..., tuple[int, str, str]]
# (section, language, its number there) -> the test that runs it
BLOCKS = {
    ("Two commands", "", 0): "test_the_first_two_commands_are_those_of_a_clone",
    ("Two commands", "", 1): "test_the_readmes_commands_from_an_empty_folder",
    ("Two commands", "yaml", 0): "test_the_suite_of_your_own_question",
    ("Ship a student", "python", 0): "test_three_commands_from_photographs_to_onnx",
    ("Add a method", "python", 0): "test_the_contract",
    ("Add a method", "yaml", 0): "test_the_readmes_method_teaches_wherever_the_student_stands",
}


def test_every_block_has_its_test() -> None:
    found = []
    for section in README.split("\n## ")[1:]:
        name, counts = section.partition("\n")[0], dict[str, int]()
        for language in re.findall(r"^```(\w*)\n.*?^```$", section, re.DOTALL | re.MULTILINE):
            found.append((name, language, counts.get(language, 0)))
            counts[language] = counts.get(language, 0) + 1
    assert found == list(BLOCKS)
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name in BLOCKS.values() if f"def {name}(" not in tests] == []


def test_the_first_two_commands_are_those_of_a_clone() -> None:
    """They are run in CI as they stand (`.ci/run`): here, that what they name is there."""
    first, second = readme_block("Two commands", "").splitlines()
    root = Path(__file__).parents[1]
    assert first == "pip install uv && uv run kdbench run suites/quickstart.yaml"
    assert (root / "suites" / "quickstart.yaml").is_file()
    assert second == "uv run pytest"
    assert "pytest" in (root / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.usefixtures("one_thread")
def test_the_suite_of_your_own_question(kdbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as it stands; run for an epoch, on data that are here, with teachers of fewer layers and random weights."""
    prove = Verdicts.prove  # of each layer it takes long; what may end the process is proven nonetheless
    monkeypatch.setattr(Verdicts, "prove", lambda self, all_: prove(self, [o for o in all_ if NARROW.search(o.name)]))
    without_measures(monkeypatch)
    path = tmp_path / "mine.yaml"
    path.write_text(readme_block("Two commands", "yaml"), encoding="utf-8")
    suite = load_suite(path)
    assert len(cells_of(suite, unread=True)) == 18
    assert suite.pairs[1][0].pretrained
    assert (suite.pairs[0][2].lr, suite.pairs[1][2].lr) == (0.05, 0.01)
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    data |= {"datasets": ["digits"], "seeds": [0]}
    data["pairs"][0]["teacher"] = "cifar_resnet8"
    data["pairs"][1]["teacher"] = {"model": "resnet10t"}
    data["train"] |= {"epochs": 1, "precision": "fp32", "batch_size": 256}
    del data["train"]["schedule"]  # of 240 epochs
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    code, out, err = kdbench("run", path, results=tmp_path / "results")
    assert code == 0, err
    assert out.count("| kd+at ") == 2

"""`kdbench submit` and what `kdbench verify` makes of an archive: judged by strangers, so nothing in it is trusted."""

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import STUDENT, TINY, without_measures

from kdbench.cli import main
from kdbench.method.register import METHODS
from kdbench.registry import hash_of_file
from kdbench.results.seal import sealed
from kdbench.suite.cells import fingerprint
from kdbench.verify.pack import write_archive

METHOD = """
import torch
from kdbench import Batch, Method, Outputs, register_method

print("the plugin ran")

@register_method("mine", needs="logits")
class Mine(Method):
    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, torch.Tensor]:
        return {"mine": (student.logits - teacher.logits).abs().mean()}
"""
RAN = "the plugin ran"
NO_KEY = "0" * 20


def run(capfd: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main([str(word) for word in words])
    return code, *capfd.readouterr()


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one that extends another and has a method of its own."""
    folder = tmp_path_factory.mktemp("submitted")
    (folder / "mine.py").write_text(METHOD)
    (folder / "own.yaml").write_text(yaml.safe_dump(TINY["train"]))
    (folder / "base.yaml").write_text(yaml.safe_dump({**TINY, "name": "base", "train": {"recipe": "own.yaml"}}))
    rows = {"mine": {"ce": 1, "mine": 0.5}, "kd": TINY["methods"]["kd"]}
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"extends": "base.yaml", "name": "ours", "plugins": ["mine.py"], "methods": rows}))
    with pytest.MonkeyPatch.context() as patch:
        without_measures(patch)
        assert main(["run", str(path), "--results", str(folder / "results"), "--device", "cpu", "--jobs", "1"]) == 0
    del METHODS.entries["mine"]
    for name in [name for name in sys.modules if name.startswith("kdbench_plugin_")]:
        del sys.modules[name]
    return path


@pytest.fixture
def packed(suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    output = tmp_path / "mine.zip"
    results = suite.parent / "results"
    code, _, err = run(capfd, "submit", suite, "--row", "mine", "--results", results, "--output", output)
    assert code == 0, err
    del METHODS.entries["mine"]  # as in the new process of whoever judges
    return output


def contents(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_it_holds_the_row_alone_and_all_that_it_rests_on(packed: Path, suite: Path) -> None:
    files = contents(packed)
    kinds = sorted(name.rsplit("/", 1)[0] for name in files if "/" in name)
    assert kinds == ["code", "results/ours/records", "results/ours/students", *["results/teachers"] * 2]
    record = next(json.loads(content) for name, content in files.items() if "/records/" in name)
    assert record["label"] == "mine"
    whole = yaml.safe_load(files["suite.yaml"])
    assert whole["plugins"] == ["code/mine.py"]
    assert "extends" not in whole
    assert TINY["train"].items() <= whole["train"].items()  # the recipe's file is not packed, what it says is
    assert whole["datasets"] == TINY["datasets"]
    again = packed.with_name("again.zip")
    write_archive(again, files)
    assert again.read_bytes() == packed.read_bytes()


def test_without_being_asked_nothing_of_it_runs(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "verify", packed)
    assert code == 0, out + err
    assert RAN not in out
    assert "its code was not run: mine.py (10 lines)" in out
    assert "say --run-code mine.py: it runs with your rights" in out
    assert "weights re-evaluated: 1 student" in out
    assert "no epoch was replayed: that runs its method's code" in out
    assert (
        "teachers: 0 evaluated again give what is claimed; 1 not evaluated: that builds nets as the suite says" in out
    )
    assert run(capfd, "verify", packed, "--run-code", "my.py")[2].startswith("unknown file of code 'my.py'")


def test_asked_by_name_its_code_runs_and_an_epoch_is_replayed(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capfd, "verify", packed, "--run-code", "mine.py")
    assert code == 0, out + err
    assert f"running mine.py of {packed} with your rights" in err
    assert RAN in out
    assert "epoch replayed: 1 cell:" in out
    assert "teachers: 1 evaluated again give what is claimed; no teacher's training is replayed" in out


def other_code(files: dict[str, bytes]) -> None:
    files["code/mine.py"] = files["code/mine.py"].replace(b".abs()", b".abs() / 2")


def other_student(files: dict[str, bytes]) -> None:
    name = next(name for name in files if "/students/" in name)
    files[name] = files[name][:-4] + b"\0\0\0\0"


def other_score(files: dict[str, bytes]) -> None:
    name = next(name for name in files if "/records/" in name)
    record = json.loads(files[name])
    record["scores"]["test_nll"] /= 2
    files[name] = json.dumps(sealed(record)).encode()


def made_with_other_code(files: dict[str, bytes]) -> None:
    """The key holds a hash of the code; a liar makes it fit the code that he sends, and has trained with another."""
    other_code(files)
    name = next(name for name in files if "/records/" in name)
    record = json.loads(files.pop(name))
    record["settings"]["code"]["mine"] = hash_of_file(files["code/mine.py"])
    record["key"] = fingerprint(record["settings"])
    files[f"results/ours/records/{record['key']}.json"] = json.dumps(sealed(record)).encode()


def rewritten(files: dict[str, bytes], **changes: Any) -> None:
    """A record with other settings, whose key and seal a liar made fit."""
    name = next(name for name in files if "/records/" in name)
    record = json.loads(files.pop(name))
    record["settings"] |= changes
    record["key"] = fingerprint(record["settings"])
    files[f"results/ours/records/{record['key']}.json"] = json.dumps(sealed(record)).encode()


def settings_of_no_kind(files: dict[str, bytes]) -> None:
    rewritten(files, train=["no table"], code={"mine": []})


def other_transform(files: dict[str, bytes]) -> None:
    rewritten(files, transform_code={"halve": NO_KEY})


def a_teacher_s_own_teacher(files: dict[str, bytes]) -> None:
    rewritten(files, teacher={"taught_by": {"code": {"older": NO_KEY}}})


def what_moves_the_cursor(files: dict[str, bytes]) -> None:
    rewritten(files, code={"mine\x1b[2J": NO_KEY})


FORGERIES: list[tuple[Callable[[dict[str, bytes]], None], str]] = [
    (other_code, "it was made by other code of mine than the archive holds"),
    (other_student, "holds another student"),
    (other_score, "test_nll is claimed to be"),
    (made_with_other_code, "its record tells of other code of mine"),
    (settings_of_no_kind, "its parts do not fit together"),
    (other_transform, "it was made by other code of halve than the archive holds"),
    (a_teacher_s_own_teacher, "it was made by other code of older than the archive holds"),
    (what_moves_the_cursor, r"it was made by other code of mine\x1b[2J than the archive holds"),
]


@pytest.mark.parametrize(("forge", "says"), FORGERIES, ids=[forge.__name__ for forge, _ in FORGERIES])
def test_a_forgery_is_found_without_running_code(
    packed: Path, capfd: pytest.CaptureFixture[str], forge: Callable[[dict[str, bytes]], None], says: str
) -> None:
    files = contents(packed)
    forge(files)
    write_archive(packed, files)
    code, out, _ = run(capfd, "verify", packed)
    assert code == 1, out
    assert "is not the file that was packed" in out
    assert any("mine · seed 0" in line and says in line for line in out.splitlines()), out
    assert RAN not in out


BAD_NAMES = [
    "../evil.py",
    "/tmp/evil.py",
    "code/../../evil.py",
    "code/evil.so",
    "code/\u202eyp.py",
    "results/mlflow.db",
    "suite.yaml/x",
    f"results/teachers/records/{NO_KEY}.json",
    f"results/ours/checkpoints/{NO_KEY}.ckpt",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_file_that_does_not_belong_there_is_refused_before_anything_is_written(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    write_archive(packed, {**contents(packed), name: b"x"})
    code, _, err = run(capfd, "verify", packed)
    assert code == 2
    assert "no such file belongs into a submission" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_seed_that_was_left_out_of_an_archive_is_named(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = contents(packed)
    suite = yaml.safe_load(files["suite.yaml"])
    write_archive(packed, {**files, "suite.yaml": yaml.safe_dump({**suite, "seeds": [0, 7]}).encode()})
    out = run(capfd, "verify", packed)[1]
    assert "its suite was not read: cells of it may be missing" in out
    out = run(capfd, "verify", packed, "--run-code", "mine.py", "--sample", 0)[1]
    assert "NOT THERE: 1 cell of the suite without a record: " in out
    assert "seed 7 (" in out


def test_its_suite_can_name_no_file_outside(packed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor could it ask whether there is one."""
    files = contents(packed)
    del files["code/mine.py"]
    suite = {**yaml.safe_load(files["suite.yaml"]), "plugins": []}
    suite["pairs"] = [
        *suite["pairs"],
        {"teacher": {"model": "resnet18", "checkpoint": "/etc/passwd"}, "student": STUDENT},
    ]
    write_archive(packed, {**files, "suite.yaml": yaml.safe_dump(suite).encode()})
    code, out, err = run(capfd, "verify", packed)
    assert (code, out) == (2, "")
    assert "its suite names places outside of it: /etc/passwd" in err


@pytest.mark.parametrize(
    "change",
    [
        {"plugins": ["/tmp/evil.py"]},
        {"plugins": ["code/../mine.py"]},
        {"extends": "quickstart"},
        {"train": {"recipe": "../own.yaml"}},
    ],
)
def test_its_suite_can_name_no_code_outside(
    packed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any]
) -> None:
    files = contents(packed)
    del files["code/mine.py"]  # then nothing would have to be named
    files["suite.yaml"] = yaml.safe_dump({**yaml.safe_load(files["suite.yaml"]), "plugins": [], **change}).encode()
    write_archive(packed, files)
    code, out, err = run(capfd, "verify", packed)
    assert (code, out) == (2, "")
    assert "its suite names files that are not in it" in err


def test_what_is_too_large_or_no_archive_is_refused(
    packed: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("code/zeros.py", b"0" * (2**20 + 1))
    whole = packed.read_bytes()
    for content, says in (
        (bomb.getvalue(), "bytes are too many"),
        (b"no zip", "can't be read as a zip archive"),
        (whole[: len(whole) // 2], "can't be read as a zip archive"),
    ):
        packed.write_bytes(content)
        code, _, err = run(capfd, "verify", packed)
        assert code == 2
        assert says in err
    packed.write_bytes(whole)
    monkeypatch.setattr("kdbench.verify.archive.MOST_BYTES", 1000)
    assert "too much for a submission" in run(capfd, "verify", packed)[2]
    write_archive(packed, {"suite.yaml": b"name: x"})
    monkeypatch.undo()
    assert "is no submission" in run(capfd, "verify", packed)[2]


def test_what_can_t_be_packed_is_told(suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results, output = suite.parent / "results", tmp_path / "out.zip"
    common = ("--results", results, "--output", output)
    code, _, err = run(capfd, "submit", suite, "--row", "mien", *common)
    assert code == 2
    assert "unknown row 'mien'; did you mean 'mine'?" in err
    code, _, err = run(capfd, "submit", suite, "--row", "mine", "--results", tmp_path / "none", "--output", output)
    assert code == 2
    assert "mine · seed 0: is not done" in err
    output.write_bytes(b"")
    assert "is there already" in run(capfd, "submit", suite, "--row", "mine", *common)[2]


def test_code_in_several_files_is_refused(suite: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("suite.yaml", "base.yaml", "own.yaml"):
        shutil.copy(suite.parent / name, tmp_path)
    (tmp_path / "helper_of_mine.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "mine.py").write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
                                      f"from helper_of_mine import half\nsys.path.pop(0)\n{METHOD}")  # fmt: skip
    code, _, err = run(capfd, "submit", tmp_path / "suite.yaml", "--row", "mine", "--results", tmp_path / "results")
    assert code == 2
    assert "mine: its code imports files beside its own; put it into one file" in err

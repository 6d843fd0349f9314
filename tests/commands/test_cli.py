"""The command line as a user types it."""

import json
import os
import socket
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from conftest import TINY

from kdbench.api import choose_device
from kdbench.commands import ui
from kdbench.commands.console import show_board
from kdbench.commands.given import seconds_of
from kdbench.commands.numbers import milliseconds, parameters, size
from kdbench.errors import UserError
from kdbench.plain import LEGEND_BEGINS
from kdbench.report.meaning import LEGEND

ROOT = Path(__file__).parents[2]


def test_help_is_quick_to_import():
    """`kdbench --help` may not import what takes seconds."""
    code = "import sys; from kdbench.cli import parser; parser().format_help(); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "timm", "mlflow", "pandas", "numpy", "pydantic", "scipy", "rich", "yaml"}
    assert not heavy & set(modules)


def test_every_command_has_help(kdbench):
    for command in ("run", "plan", "leaderboard", "list", "profile", "ui", "sync", "schema"):
        with pytest.raises(SystemExit) as stop:
            __import__("kdbench.cli", fromlist=["main"]).main([command, "--help"])
        assert stop.value.code == 0


def test_plan_shows_cells_and_time(kdbench, suite_file, tmp_path):
    code, out, _ = kdbench("plan", suite_file(seeds=[0, 1, 2]))
    assert code == 0
    assert "tiny: 6 cells, 0 done, 6 to train in 3 cohorts" in out
    assert "roughly" in out
    assert not (tmp_path / "results").exists()


def test_lists(kdbench, monkeypatch):
    monkeypatch.chdir(ROOT)
    methods = kdbench("list", "methods")[1]
    assert all(name in methods for name in ("ce", "kd", "fitnet", "at", "rkd", "sp"))
    assert "cifar_resnet8x4" in kdbench("list", "models", "cifar_*")[1]
    assert "fashion_mnist" in kdbench("list", "datasets")[1]
    assert "quickstart " in kdbench("list", "suites")[1]


def test_profile(kdbench):
    code, out, _ = kdbench("profile", "cifar_resnet8", "cifar_resnet20", "--size", "16", "--classes", "10")
    assert code == 0
    assert "78" in out
    code, _, err = kdbench("profile", "resnt18")
    assert code == 2
    assert "did you mean 'resnet18'" in err


def test_ui_becomes_the_server(kdbench, tmp_path, monkeypatch):
    """No parent is left that could die without its server."""
    became = []
    monkeypatch.setattr(os, "execve", lambda program, words, environment: became.append((program, words)))
    said = []
    monkeypatch.setattr(ui, "announce", lambda page, host, port: said.append((page, host, port)))
    assert "starting" in kdbench("ui", "--port", "5055")[1]
    [(program, words)] = became
    [(page, *place)] = said
    assert page.startswith("http://127.0.0.1:5055/")
    assert place == ["127.0.0.1", 5055]
    assert program == words[0] == sys.executable
    assert words[1:4] == ["-m", "mlflow", "server"]
    assert f"sqlite:///{tmp_path}/results/mlflow.db" in words


def test_schema_describes_suites(kdbench):
    schema = json.loads(kdbench("schema")[1])
    assert {"datasets", "pairs", "methods", "seeds", "train"} <= set(schema["properties"])


def test_an_unknown_device_is_one_line(kdbench, suite_file):
    from kdbench.cli import main

    assert main(["run", str(suite_file()), "--device", "cuda:77"]) == 2


def test_missing_data_say_what_to_put_where(kdbench, suite_file, tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR100.url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    monkeypatch.setattr("kdbench.train.arithmetic.Verdicts.prove", lambda *a: [])  # of what will never train
    suite = suite_file(datasets=["cifar100"])
    code, _, err = kdbench("run", suite, "--data", tmp_path / "empty")
    assert code == 1  # a data set that is missing fails its own cells; those of others go on
    assert "put cifar-100-python/" in err
    assert "Traceback" not in err


STOPS = '''
import os, signal
from pathlib import Path
from kdbench import Method, register_method

@register_method("stops")
class Stops(Method):
    """Has its process stopped in its ninth step, if there is a file that says so, as a scheduler stops one."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.steps = Path(file), 0

    def forward(self, student, teacher, batch):
        self.steps += not student.logits.is_meta
        if self.steps == 9 and self.file.exists():
            self.file.unlink()
            os.kill(os.getpid(), signal.SIGTERM)
        return {"stops": student.logits.square().mean()}
'''


def test_interrupted_and_continued(kdbench, suite_file, tmp_path):
    """SIGTERM saves state and exits 143; the same command goes on and ends with the numbers of an undisturbed run."""
    (tmp_path / "stops.py").write_text(STOPS)
    stop, undisturbed, results = (tmp_path / name for name in ("stop", "undisturbed", "results"))
    rows = {**TINY["methods"], "stops": {"ce": 1, "stops": {"weight": 0.01, "file": str(stop)}}}
    suite = suite_file(methods=rows, plugins=["stops.py"], train={**TINY["train"], "epochs": 3})
    assert kdbench("run", suite, results=undisturbed)[0] == 0
    stop.touch()
    command = [sys.executable, "-m", "kdbench", "run", str(suite), "--device", "cpu", "--results", str(results)]
    assert subprocess.run([*command, "--jobs", "1"], stderr=subprocess.DEVNULL, timeout=300).returncode == 143
    assert not stop.exists()
    assert {path.suffix for path in (results / "tiny" / "records").glob("*")} == set()
    assert kdbench("run", suite, results=results)[0] == 0
    assert len(scores(results)) == 3
    assert scores(results) == scores(undisturbed)


def scores(results: Path):
    records = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {r["key"]: (r["scores"], r["curves"]) for r in records}


def test_a_folder_named_methods_of_the_users_own(tmp_path):
    """It stands before everything else on the path, and does not matter."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("raise SystemExit('the user's own')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "kdbench", "list", "methods", "kd*"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "kdsvd" in done.stdout


def test_suites_are_found_by_name(kdbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("# My own question\nextends: quickstart\nname: mine\nseeds: [0]\n")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    out = kdbench("list", "suites")[1]
    assert "Does distillation help a small student" in out
    assert "My own question" in out
    assert "compose" not in out
    code, out, err = kdbench("plan", "mine.yaml")
    assert code == 0, err
    assert "mine: 8 cells" in out
    assert kdbench("leaderboard", "quickstart")[0] == 0
    assert "did you mean quickstart?" in kdbench("run", "quikstart")[2]
    assert "did you mean mine.yaml?" in kdbench("run", "min.yaml")[2]
    (tmp_path / "mine.yaml").write_text("extends: quickstrat.yaml\nname: mine\n")
    assert "mine.yaml:1: extends: no such file" in (err := kdbench("plan", "mine.yaml")[2])
    assert "did you mean quickstart?" in err


def test_list_recipes(kdbench):
    code, out, _ = kdbench("list", "recipes")
    assert code == 0
    assert "rsb-a2" in out
    code, out, _ = kdbench("list", "recipes", "deit")
    assert code == 0
    assert "2012.12877" in out
    assert "drop_path: 0.1" in out


def test_the_address_is_said_when_something_answers(capfd):
    with socket.create_server(("127.0.0.1", 0)) as server:
        asking = ui.announce("http://here", "127.0.0.1", server.getsockname()[1])
        server.settimeout(60)
        server.accept()[0].close()
        assert asking.wait(60) == 0
    assert capfd.readouterr().out == "open http://here\n"


def test_the_nearest_word(kdbench, suite_file):
    assert "did you mean 'run'?" in kdbench("rum", suite_file())[2]
    assert "did you mean 'methods'?" in kdbench("list", "method")[2]
    assert "did you mean 'cuda'?" in wrong_device(suite_file(), "cud")
    assert "no GPU that torch can use" in wrong_device(suite_file(), "gpu")


def wrong_device(suite, name):
    with pytest.raises(UserError) as caught:
        choose_device(name)
    return str(caught.value)


def test_a_file_that_is_no_text_has_a_line(kdbench, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"name: x\nseeds: [0]\nnote: \xff\n")
    assert "bad.yaml:3: not a text file" in kdbench("plan", tmp_path / "bad.yaml")[2]


def test_what_people_write():
    assert [parameters(text) for text in ("1e6", "1M", "500k", "1.5G")] == [1e6, 1e6, 5e5, 1.5e9]
    assert [seconds_of(text) for text in ("10min", "10 minutes", "2 hours", "90sec", "1day")] == [
        600,
        600,
        7200,
        90,
        86400,
    ]
    assert [seconds_of(text) for text in ("1h30m", "2H", "1d 2h", "0h90s")] == [5400, 7200, 93600, 90]
    for text in ("10", "10 x", "1h30", "h"):
        with pytest.raises(UserError, match="say it like 30m"):
            seconds_of(text)
    with pytest.raises(UserError, match="there must be some time"):
        seconds_of("0m")
    sizes = ("100e3", "1M", "1MB", "500 kB", "2MiB", "64")
    assert [size(text) for text in sizes] == [1e5, 1e6, 1e6, 5e5, 2 * 2**20, 64]
    for read, text in ((size, "large"), (size, "0"), (parameters, "-1"), (milliseconds, "5s")):
        with pytest.raises(ArgumentTypeError, match="a number above 0, like"):
            read(text)
    assert milliseconds("5 ms") == 5


def test_settings_that_live_elsewhere(kdbench, suite_file):
    train = {**TINY["train"], "temperature": 4, "mixup": 0.8, "random_erasing": 0.2}
    err = kdbench("plan", suite_file(train=train, seeds="0"))[2]
    assert "train.temperature: is a setting of a method: {kd: {temperature: 4}}" in err
    assert "train.random_erasing: is an augmentation, and is called erase" in err
    assert "train.mixup: is an augmentation: {augment: {mixup: 0.8}}" in err
    assert "seeds: should be a list" in err


def test_the_legend_is_short_on_a_terminal(monkeypatch, capsys):
    """LEGEND in the file is 1,900 characters."""
    table = "# Leaderboard: x\n\n| a |\n|---|\n| 1 |\n\n"
    show_board(table + LEGEND)
    assert LEGEND in capsys.readouterr().out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show_board(table + LEGEND)
    out = capsys.readouterr().out
    assert "leaderboard.md" in out
    assert len(out) < 700
    assert LEGEND.startswith(LEGEND_BEGINS)

"""What `pip install` gives: the wheel, in an environment of its own, run from an empty folder.

The environment sees the packages of this one, but neither the checkout nor its metadata: nothing is downloaded.
"""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import readme_section

ROOT = Path(__file__).parents[1]
Run = Callable[..., str]


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment in which the wheel is installed."""
    pytest.importorskip("hatchling", reason="builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    quiet = {"check": True, "stdout": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, **quiet)
    venv.create(folder / "env", with_pip=True)
    [python] = (folder / "env").glob("*/python") or (folder / "env").glob("*/python.exe")
    [wheel] = folder.glob("*.whl")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], **quiet)
    [site] = (folder / "env").glob("**/site-packages")
    (site / "others.pth").write_text(
        sysconfig.get_path("purelib")
    )  # their own .pth files, the checkout's, are not read
    return python.parent


@pytest.fixture
def run(bin_folder: Path, tmp_path: Path) -> Run:
    """`run("plan", "quickstart")` in an empty folder -> what is printed."""

    def call(*words: str, program: str = "kdbench") -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [str(bin_folder / program), *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.long
def test_an_installed_kdbench_needs_no_checkout(run: Run, tmp_path: Path) -> None:
    """Suites by name, methods, published numbers and the pages' template are in it; a folder `methods` is in no way."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").write_text("raise SystemExit('the user's own')")
    (tmp_path / "mine.yaml").write_text(
        "extends: quickstart\nname: mine\nseeds: [0]\ntrain: {epochs: 1}\nvalidation: 0\n"
        "methods: {dkd: null, fitnet: null, sp: null, rkd: null, pkt: null, kd+sp+rkd: null}\n"
    )
    assert "quickstart " in run("list", "suites")
    out = run("run", "mine.yaml", "--jobs", "1", "--device", "cpu")
    assert re.search(r"^\| kd +\| +1 \|", out, re.MULTILINE), out
    assert (tmp_path / "results" / "mine" / "leaderboard.html").is_file()
    script = "import kdbench.methods as m, kdbench.report.published as p; print(m.__file__, p.folder())"
    methods, published = run("-c", script, program="python").split()
    assert Path(methods).parts[-3:] == ("kdbench", "methods", "__init__.py")
    assert Path(published).parts[-2:] == ("kdbench", "published_data")


@pytest.mark.slow
def test_the_readmes_commands_from_an_empty_folder(run: Run) -> None:
    """Each line of the section, as it stands but for `uv run`: a server and what needs data are left out."""
    lines = [
        line.partition("#")[0].split() for line in re.findall(r"uv run kdbench (.*)", readme_section("Two commands"))
    ]
    assert lines[0][:1] == ["run"]
    for words in lines:
        words = ["run", "quickstart"] if words == ["run", "suites/quickstart.yaml"] else words  # a clone's
        if words[0] not in ("ui", "schema", "init", "recommend", "export") and "--data" not in words:
            run(*words)

"""The site of docs/ can't fall behind the code: `mkdocs build --strict` (in .ci/run) finds dead links."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

import kdbench

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOMS = sorted(path.parent.name for path in (ROOT / "kdbench").glob("*/__init__.py"))

sys.path.insert(0, str(DOCS))
import rooms as hook  # noqa: E402

sys.path.pop(0)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_its_page(room: str) -> None:
    page = (DOCS / "rooms" / f"{room}.md").read_text(encoding="utf-8")
    assert f"rooms/{room}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    shown = hook.on_page_markdown(page)
    assert "{{" not in shown
    for path in (ROOT / "kdbench" / room).glob("*.py"):
        assert path.name == "__init__.py" or re.search(rf"^\| `{path.name}` \| \S", shown, re.MULTILINE), path
    assert re.search(r"It may import: `\w+`.*`errors`|It may import: `errors`", shown)


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in kdbench.__all__:
        assert f"::: kdbench.{kdbench._HOME[name]}.{name}\n" in text, name
        assert f"`{name}`" in text, name


def test_the_files_that_the_docs_name_are_there() -> None:
    pages = [*DOCS.glob("*.md"), *DOCS.glob("rooms/*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
    for page in pages:
        for name in re.findall(
            r"`((?:kdbench|tests|examples|suites|docs)/[\w/.-]+)`", page.read_text(encoding="utf-8")
        ):
            assert "NAME" in name or (ROOT / name).exists(), f"{page.name}: {name}"


def test_files_that_pages_include_are_included() -> None:
    """A formatter once put spaces into the line that does it."""
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"--8 < --", text), page
        for name in re.findall(r'--8<-- "([^":]+)', text):
            assert (ROOT / name).is_file(), f"{page.name}: {name}"


def test_what_is_installed_and_what_a_plugin_may_do_is_told() -> None:
    """Every requirement ends before a version that may break it; every file has a licence; a plugin is called code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]:
        assert re.fullmatch(r"[a-z-]+>=[\d.]+,<\d+", requirement), requirement
    annotated = tomllib.loads((ROOT / "REUSE.toml").read_text(encoding="utf-8"))["annotations"]
    assert [one["path"] for one in annotated] == ["**"]
    assert (ROOT / "LICENSES" / f"{annotated[0]['SPDX-License-Identifier']}.txt").is_file()
    for name in ("README.md", "kdbench/cli.py"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").replace('"', " ").split())
        assert re.search(r"code.{0,20} runs with your rights", text), name

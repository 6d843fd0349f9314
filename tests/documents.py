"""The code that README shows, for tests that run it."""

import re
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def readme_block(section: str, language: str) -> str:
    """The first block of a language in a section of the README."""
    found = re.search(rf"```{language}\n(.*?)```", readme_section(section), re.DOTALL)
    assert found is not None, f"no {language} in {section!r}"
    return found[1]


def readme_section(name: str) -> str:
    return README.split(f"\n## {name}\n")[1].split("\n## ")[0]

"""`kdbench list`: methods, models, data sets, suites, recipes."""

import argparse
from fnmatch import fnmatchcase

from rich.console import Console

from kdbench.commands.console import console, table
from kdbench.suite.shipped import local, recipes, shipped


def run(given: argparse.Namespace) -> int:
    """Raises UserError for an unknown model."""
    out = console()
    if given.what == "recipes":
        show_recipes(out, given.pattern)
    elif given.what == "suites":
        show_suites(out, given.pattern)
    else:
        from kdbench.commands.inventory import show  # with it comes torch, which the others need not wait for

        show(out, given)
    return 0


def show_recipes(out: Console, pattern: str) -> None:
    """A line a recipe; of one alone, the file: its source, what differs, and every setting."""
    found = {name: path for name, path in recipes().items() if fnmatchcase(name, pattern)}
    texts = {name: path.read_text(encoding="utf-8") for name, path in found.items()}
    if len(texts) == 1:
        out.print(next(iter(texts.values())), markup=False, highlight=False, soft_wrap=True)
        return
    made = table("recipe", "about")
    for name, text in texts.items():
        made.add_row(name, text.splitlines()[0].removeprefix("# "))
    out.print(made)
    out.print("`train: {recipe: NAME, epochs: 100}` in a suite; `kdbench list recipes NAME` shows one", soft_wrap=True)


def show_suites(out: Console, pattern: str) -> None:
    """Those that come with kdbench, by name, then the user's own, by file: what `kdbench run` takes."""
    made = table("suite", "about")
    for name, path in [*shipped().items(), *((str(path), path) for path in local())]:
        if fnmatchcase(path.stem, pattern):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            made.add_row(name, lines[0].removeprefix("# ") if lines[0].startswith("#") else "")
    out.print(made)
    out.print("kdbench run SUITE trains one of them; `extends: NAME` in a file of your own changes it", soft_wrap=True)

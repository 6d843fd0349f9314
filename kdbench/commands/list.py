"""`kdbench list`: methods, models, data sets, suites, recipes."""

import argparse

from rich.console import Console

from kdbench.commands.console import console, table
from kdbench.commands.matching import matching
from kdbench.errors import UserError
from kdbench.suite.shipped import local, recipes, shipped


def run(given: argparse.Namespace) -> int:
    """Raises UserError for an unknown model, a pattern that nothing matches, and options that mean nothing."""
    out = console()
    check(given)
    if given.what == "recipes":
        show_recipes(out, given.pattern)
    elif given.what == "suites":
        show_suites(out, given.pattern)
    else:
        from kdbench.commands.inventory import show  # with it comes torch, which the others need not wait for

        show(out, given)
    return 0


def check(given: argparse.Namespace) -> None:
    """Raises UserError for options that mean nothing of what is listed; the others get their usual values."""
    about_a_pair = {"--dataset": given.dataset, "--size": given.size, "--classes": given.classes}
    said = [name for name, value in about_a_pair.items() if value is not None]
    if given.what != "methods" and (said or given.pair):
        raise UserError(f"list {given.what}: {', '.join([*said, *['--pair'] * bool(given.pair)])} is of methods alone")
    if said and not given.pair:
        raise UserError(f"list methods: {', '.join(said)} is of a pair: give --pair TEACHER STUDENT, too")
    given.size, given.classes = given.size or 32, given.classes or 100


def show_recipes(out: Console, pattern: str) -> None:
    """A line a recipe; of one alone, the file: its source, what differs, and every setting."""
    known = recipes()
    found = {name: known[name] for name in matching(known, pattern, "recipe")}
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
    known = [*shipped().items(), *((str(path), path) for path in local())]
    found = matching([path.stem for _, path in known], pattern, "suite")
    for name, path in known:
        if path.stem in found:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            made.add_row(name, lines[0].removeprefix("# ") if lines[0].startswith("#") else "")
    out.print(made)
    out.print("kdbench run SUITE trains one of them; `extends: NAME` in a file of your own changes it", soft_wrap=True)

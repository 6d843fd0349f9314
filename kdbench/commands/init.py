"""`kdbench init`: a suite proposed for data of one's own, pictures or texts, whose measured cost fits a budget."""

import argparse
from pathlib import Path

from kdbench.commands.console import show_markdown
from kdbench.commands.given import options_of
from kdbench.commands.init_pictures import Wanted, propose
from kdbench.commands.init_texts import STUDENTS, TEACHER, propose_for_texts
from kdbench.errors import UserError
from kdbench.suite.plugins import load_methods, load_plugin
from kdbench.text.inspect import holds_texts


def run(given: argparse.Namespace) -> int:
    """What lies in the folder decides: tables and .txt are texts, anything else pictures."""
    options = options_of(given)
    load_methods()
    for path in options.plugins:
        load_plugin(path)
    root = (given.folder or options.data).expanduser().resolve()
    weights = dict(map(_weights_of, given.weights))
    of_texts = holds_texts(root)
    teacher = given.teacher or (TEACHER if of_texts else "resnet18")
    students = tuple(given.student or (STUDENTS if of_texts else ["mobilenetv3_small_050"]))
    wanted = Wanted(teacher, students, given.budget, given.output, given.force, given.size, weights)
    show_markdown((propose_for_texts if of_texts else propose)(root, wanted, options))
    return 0


def _weights_of(text: str) -> tuple[str, Path]:
    """`resnet18=FILE`"""
    model, is_there, file = text.partition("=")
    if not is_there or not Path(file).is_file():
        raise UserError(f"--weights {text}: " + (f"no such file: {file}" if is_there else "say it like resnet18=FILE"))
    return model, Path(file).resolve()

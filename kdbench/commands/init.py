"""`kdbench init`: a suite proposed for data of one's own, pictures or texts, whose measured cost fits a budget."""

import argparse
import os
from difflib import get_close_matches
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
    if not is_there:
        raise UserError(f"--weights {text}: say it like resnet18=FILE")
    if not Path(file).is_file():
        beside = Path(file).parent
        near = get_close_matches(Path(file).name, os.listdir(beside) if beside.is_dir() else [], 1)
        raise UserError(f"--weights {text}: no such file" + (f"; did you mean {beside / near[0]}?" if near else ""))
    return model, Path(file).resolve()

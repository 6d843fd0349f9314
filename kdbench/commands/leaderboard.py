"""`kdbench leaderboard`: the table of what is done, printed and written in every form."""

import argparse

from kdbench.api import make_leaderboard
from kdbench.commands.console import show_board
from kdbench.commands.given import folder_of, options_of
from kdbench.layout import BOARD


def run(given: argparse.Namespace) -> int:
    shown = {"published": given.compare_published, "reference": given.reference}
    text = make_leaderboard(given.suite, options_of(given), given.also, given.from_mlflow, **shown)[1]
    show_board(text)
    folder = folder_of(given)
    print("\nWritten: " + ", ".join(map(str, (*map(folder.leaderboard, BOARD), folder.cells("csv"), folder.plots))))
    return 0

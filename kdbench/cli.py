"""The command line: the parser, and how errors end. A command is `commands/NAME.py`, imported when it is asked for."""

import argparse
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, cast

from kdbench.commands.around import SHORT, around, at_hand, reader_is_gone
from kdbench.commands.numbers import count, gigabytes, milliseconds, parameters, port, processes, side, size
from kdbench.errors import UserError
from kdbench.grid.signals import own_interrupts
from kdbench.layout import RESULTS
from kdbench.results.store import place_of

EPILOG = """\
exit codes: 0 all cells are done; 1 some failed or diverged (the rest are done); 2 nothing was started because of the
input; 129, 130, 143 stopped by SIGHUP, Ctrl-C or SIGTERM (the same command goes on from there). A plugin (--plugin, or
`plugins:` in a suite) is code that runs with your rights, on `plan` and `leaderboard` too."""

NO_ROOM = ("failed to map segment", "annot allocate memory")  # what a loader says


class Parser(argparse.ArgumentParser):
    """Names the nearest choice, where there are many."""

    def error(self, message: str) -> NoReturn:
        given, known = re.search(r"invalid choice: '([^']*)'", message), message.partition("choose from")[2]
        near = get_close_matches(given[1], re.findall(r"[\w-]+", known), 1) if given else []
        super().error(message + (f"; did you mean {near[0]!r}?" if near else ""))


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="kdbench", description="Compare knowledge-distillation methods honestly.", epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"kdbench {version('kdbench')}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, **options: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **options)

    for group in (_on_suites, _on_results, _on_students, _on_models, _on_this_machine):
        group(command)
    return top


Command = Callable[..., argparse.ArgumentParser]


def _on_suites(command: Command) -> None:
    run = command("run", "train what a suite asks for and is not done yet, then print its leaderboard")
    plan = command("plan", "show a suite's cells: done, to do, not applicable and why, and the time it will take")
    board = command(
        "leaderboard", "print the leaderboard of what is done, and write it as Markdown, HTML, CSV and LaTeX"
    )
    sync = command("sync", "bring MLflow up to date with the records")
    for sub in (run, plan, board, sync):
        sub.add_argument(
            "suite",
            type=Path,
            metavar="SUITE",
            help="a suite's file, or the name of one that comes with kdbench (`kdbench list suites`)",
        )
        _common(sub, device=sub in (run, plan))
        sub.add_argument("--only", action="append", metavar="PATTERN",
                         help="only the cells whose row or title matches (* and ?), or of the cohort with this key; "
                              "given several times, each has to match")  # fmt: skip
    run.add_argument("--until-decided", action="store_true",
                     help="add seeds in blocks where a comparison is still open and could be decided; looking often "
                          "makes no more false claims")  # fmt: skip
    run.add_argument("--budget", metavar="TIME", help="with --until-decided: how long it may take, e.g. 30m or 8h")
    run.add_argument("--keep-answers", type=gigabytes, default=0.0, metavar="GB",
                     help="keep teachers' logits and embeddings on disk, up to so many GB: objectives that are added "
                          "later and need no more train without the teacher's forward (default: 0)")  # fmt: skip
    run.add_argument("--jobs", type=processes, default=None, metavar="N",
                     help="train in so many processes, which share the threads or GPUs; 1: in this one (default: auto, "
                          "as many as there are cohorts and cores, or GPUs, as far as memory goes)")  # fmt: skip
    run.add_argument("--devices", type=count, default=1, metavar="N",
                     help="train each cohort with so many GPUs (or processes on the CPU), each with a part of every "
                          "batch: for what takes one device too long; or start this command by torchrun")  # fmt: skip
    run.add_argument("--executor", choices=["here", "processes", "ray"], default=None,
                     help="where cohorts run: in this process, in several of this machine (the default), or on Ray "
                          "(needs kdbench[ray])")  # fmt: skip
    run.add_argument("--address", metavar="ADDRESS",
                     help="of a Ray cluster (default: RAY_ADDRESS, else a Ray of this machine alone)")  # fmt: skip
    plan.add_argument("--shell", action="store_true",
                      help="print a command for each cohort that is left instead, for a scheduler's array")  # fmt: skip
    plan.add_argument("--hours", action="store_true",
                      help="measure this device for some 20 seconds and tell the hours of each cohort")  # fmt: skip
    plan.add_argument("--as", dest="devices_like", metavar="DEVICES",
                      help="the same for other devices: '8 gpus', or '4 x 8 gpus at 50 tflops' (sustained) where none "
                           "is here")  # fmt: skip
    board.add_argument("--also", type=Path, action="append", default=[], metavar="DIR",
                       help="another results folder to take records from; may be given several times")  # fmt: skip
    board.add_argument("--from-mlflow", metavar="URI", help="take records from this MLflow store too")
    _shown(board)


def _shown(board: argparse.ArgumentParser) -> None:
    """How a table is made."""
    board.add_argument("--compare-published", action="store_true", help="put the literature's numbers beside ours")
    board.add_argument("--reference", default="kd", metavar="ROW",
                       help="the row to count gains against, beside the student alone (default: kd)")  # fmt: skip


def _on_results(command: Command) -> None:
    verify = command(
        "verify",
        "judge results: do records and tables fit together, do the saved students score what is claimed, does an epoch "
        "that is trained again end in the same state",
    )
    verify.add_argument("results_or_archive", type=Path, metavar="RESULTS",
                        help="a suite's folder in the results, its suite, or what `kdbench submit` packed")  # fmt: skip
    verify.add_argument("--sample", type=int, default=3, metavar="N",
                        help="of how many cells an epoch, drawn at random, is replayed (default: 3); a late one needs "
                             "all before it, so a cell is trained from its start up to there")  # fmt: skip
    verify.add_argument("--budget", default="8m", metavar="TIME",
                        help="how long it may take, e.g. 30m (default: 8m): students are evaluated for half of it, and "
                             "epochs are drawn among those that the rest allows")  # fmt: skip
    verify.add_argument("--note", action="store_true",
                        help="where nothing is wrong: note what was found, and have the tables show it")  # fmt: skip
    verify.add_argument("--draw", type=int, metavar="NUMBER", help="draw the same cells and epochs as another time")
    verify.add_argument("--run-code", action="append", default=[], metavar="NAME",
                        help="of an archive: run this file of its code, with your rights; without it nothing of an "
                             "archive is run, and no epoch of a row with code of its own is replayed")  # fmt: skip
    _shown(verify)
    _common(verify)
    verify.set_defaults(device="cpu")
    submit = command("submit", "pack rows of a suite into one archive that others can judge with `kdbench verify`")
    submit.add_argument("suite", type=Path, metavar="SUITE")
    submit.add_argument("--row", action="append", required=True, metavar="ROW", help="may be given several times")
    submit.add_argument("--output", type=Path, metavar="FILE", help="default: SUITE-submission.zip")
    submit.add_argument("--force", action="store_true", help="replace FILE if it is there")
    _common(submit)


def _on_students(command: Command) -> None:
    init = command("init", "look at a folder of pictures or texts and propose a suite for it")
    init.add_argument("folder", type=Path, nargs="?", metavar="DIR",
                      help="with train/CLASS/* and val/CLASS/*, or train.csv and val.csv (.tsv, .jsonl, .parquet; "
                           "default: that of --data)")  # fmt: skip
    init.add_argument("--teacher", metavar="MODEL",
                      help="default: resnet18; of texts a small encoder; may be a table as in a suite")  # fmt: skip
    init.add_argument("--student", nargs="+", metavar="MODEL",
                      help="default: mobilenetv3_small_050; of texts a smaller encoder, and bilstm")  # fmt: skip
    init.add_argument(
        "--size", type=side, metavar="N", help="side of the pictures (default: by the pictures and budget)"
    )
    init.add_argument("--weights", action="append", default=[], metavar="MODEL=FILE",
                      help="a file that this model starts from, and is fine-tuned; its classifier may be for other "
                           "classes; may be given several times")  # fmt: skip
    init.add_argument("--budget", default="2h", help="how long the run may take, e.g. 30m or 2h (default 2h)")
    init.add_argument("--output", type=Path, default=Path("suite.yaml"), metavar="FILE", help="default: suite.yaml")
    init.add_argument("--force", action="store_true", help="replace FILE if it is there")
    _common(init)
    recommend = command("recommend", "say which student and method to ship, and how surely it is better")
    recommend.add_argument("suite", type=Path, metavar="SUITE")
    recommend.add_argument("--max-latency-ms", type=milliseconds, metavar="L", help="of one example on one CPU thread")
    recommend.add_argument("--max-bytes", type=size, metavar="B",
                           help="of the delivered file, e.g. 1MB; known where a suite has transforms")  # fmt: skip
    recommend.add_argument(
        "--max-params", type=parameters, metavar="N", help="parameters of the student, e.g. 1M or 500k"
    )
    _common(recommend)
    exporting = command("export", "write a trained student as one file, checked against the original")
    exporting.add_argument("key", metavar="KEY", help="a cell's key (see cells.csv) or its record's path")
    exporting.add_argument("--format", choices=["safetensors", "onnx"], type=str.lower,
                           help="default: what FILE ends in, else onnx")  # fmt: skip
    exporting.add_argument("--output", type=Path, metavar="FILE", help="default: KEY.onnx or KEY.safetensors")
    exporting.add_argument("--force", action="store_true", help="replace FILE if it is there")
    _common(exporting)


def _on_models(command: Command) -> None:
    listing = command("list", "list what there is")
    listing.add_argument("what", choices=["methods", "models", "datasets", "suites", "recipes", "transforms"])
    listing.add_argument("pattern", nargs="?", default="*", help="only names that match (* and ?)")
    listing.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"),
                         help="methods: which apply to these two models, and why the others don't")  # fmt: skip
    listing.add_argument("--dataset", metavar="NAME", help="methods: what the pair reads (default: pictures)")
    listing.add_argument("--size", type=side, help="side of the pair's pictures (default 32)")
    listing.add_argument("--classes", type=count, help="the pair's number of classes (default 100)")
    _common(listing, device=False)
    profiling = command("profile", "measure parameters, MACs and latency of models, side by side")
    profiling.add_argument("models", nargs="+", metavar="MODEL")
    profiling.add_argument("--dataset", metavar="NAME", help="what the models read (default: pictures)")
    profiling.add_argument("--size", type=side, default=32, help="side of the pictures (default 32)")
    profiling.add_argument("--classes", type=count, default=100, help="number of classes (default 100)")
    _common(profiling)


def _on_this_machine(command: Command) -> None:
    ui = command("ui", "open MLflow's pages on the right store")
    ui.add_argument("--port", type=port, default=5000)
    ui.add_argument("--host", default="127.0.0.1")
    _common(ui, device=False)
    doctor = command("doctor", "say what this machine has, what is wrong with it and how to mend that")
    _common(doctor, device=False)
    clean = command("clean", "list what lies in the results and no record needs")
    clean.add_argument("suite", type=Path, nargs="?", metavar="SUITE", help="of this suite alone; teachers stay")
    clean.add_argument("--yes", action="store_true", help="remove it")
    clean.add_argument("--share", action="store_true",
                       help="keep once what SUITE's records say alike: targets, a teacher's answers")  # fmt: skip
    _common(clean, device=False)
    command("schema", "print the JSON schema of suite files, for editors").add_argument(
        "--plugin", type=Path, action="append", default=[], metavar="FILE", help="a file with methods of your own"
    )


def _common(sub: argparse.ArgumentParser, device: bool = True) -> None:
    environment = os.environ.get("KDBENCH_DATA", "data")
    sub.add_argument("--data", type=Path, default=Path(environment), metavar="DIR",
                     help="where data sets are (default: KDBENCH_DATA, else ./data)")  # fmt: skip
    sub.add_argument("--results", type=place_of, default=RESULTS, metavar="DIR",
                     help=f"default: ./{RESULTS}; or the URL of a store, s3://... (needs kdbench[remote])")  # fmt: skip
    if device:
        sub.add_argument("--device", default="auto", help="cpu, gpu, cuda:1 (default: a GPU if there is one)")
    sub.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE",
                     help="a Python file with methods of your own; it is code that runs with your rights, "
                          "whatever the command; may be given several times")  # fmt: skip
    store = "an MLflow store (default: MLFLOW_TRACKING_URI, else a SQLite file in the results)"
    sub.add_argument("--tracking-uri", metavar="URI", help=store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal can't show ends nothing
    given = parser().parse_args(arguments)
    given.words = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        with own_interrupts(), around(given.command), at_hand(given):
            return command(given.command)(given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():  # `kdbench list models | head`
            return 0
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; make room and run the same command again: it goes on" if full else ""
        print(f"{error.filename or 'kdbench'}: {error.strerror or error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command(name: str) -> Callable[[argparse.Namespace], int]:
    """`run` of `commands/NAME.py`: with it come torch, timm and MLflow, which take seconds.

    Raises UserError where the process is not allowed the memory that they need.
    """
    try:
        return cast(Callable[[argparse.Namespace], int], import_module(f"kdbench.commands.{name}").run)
    except (ImportError, MemoryError) as error:
        if isinstance(error, ImportError) and not any(words in str(error) for words in NO_ROOM):
            raise
        raise UserError(
            f"no memory to load the packages that it needs ({error or 'MemoryError'}); where `ulimit -v` limits a "
            "process, torch needs some 6 GB of addresses"
        ) from error


def entry() -> None:
    code = main()
    if sys.argv[1:2] and sys.argv[1] in SHORT:  # all is written: unloading torch would take a second and 100 MiB
        with suppress(BrokenPipeError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)

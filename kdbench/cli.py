"""The command line. Thin, and quick to answer: torch, timm and MLflow are imported inside the commands."""

import argparse
import errno
import gc
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.layout import BOARD, RESULTS, Layout

EPILOG = """\
exit codes: 0 all cells are done; 1 some failed or diverged (the rest are done); 2 nothing was started because of the
input; 130, 143 stopped by Ctrl-C or SIGTERM (the same command goes on from there)."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="kdbench", description="Compare knowledge-distillation methods honestly.", epilog=EPILOG
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, help: str, **options: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", **options)

    run = command("run", "train what a suite asks for and is not done yet, then print its leaderboard")
    plan = command("plan", "show a suite's cells: done, to do, not applicable and why, and the time it will take")
    board = command("leaderboard", "print the leaderboard of what is done, and write it as Markdown and CSV")
    sync = command("sync", "bring MLflow up to date with the records")
    for sub in (run, plan, board, sync):
        sub.add_argument("suite", type=Path, metavar="SUITE", help="a suite file, e.g. suites/quickstart.yaml")
        _common(sub)
        sub.add_argument("--only", metavar="PATTERN", help="only the cells whose row or title matches (* and ?)")
    run.add_argument("--keep-answers", type=gigabytes, default=0.0, metavar="GB",
                     help="keep teachers' logits and embeddings on disk, up to so many GB: objectives that are added "
                          "later and need no more train without the teacher's forward (default: 0)")  # fmt: skip
    board.add_argument("--also", type=Path, action="append", default=[], metavar="DIR",
                       help="another results folder to take records from; may be given several times")  # fmt: skip
    board.add_argument("--from-mlflow", metavar="URI", help="take records from this MLflow store too")
    board.add_argument("--compare-published", action="store_true", help="put the literature's numbers beside ours")
    board.add_argument("--reference", default="kd", metavar="ROW",
                       help="the row to count gains against, beside the student alone (default: kd)")  # fmt: skip
    exporting = command("export", "write a trained student as one file, checked against the original")
    exporting.add_argument("key", metavar="KEY", help="a cell's key (see cells.csv) or its record's path")
    exporting.add_argument("--format", choices=["safetensors", "onnx"], default="onnx")
    exporting.add_argument("--output", type=Path, metavar="FILE", help="default: KEY.onnx or KEY.safetensors")
    _common(exporting)
    init = command("init", "look at a folder of pictures and propose a suite for it")
    init.add_argument("--teacher", required=True, metavar="MODEL")
    init.add_argument("--student", required=True, nargs="+", metavar="MODEL")
    init.add_argument("--budget", default="2h", help="how long the run may take, e.g. 30m or 2h (default 2h)")
    init.add_argument("--output", type=Path, default=Path("suite.yaml"), metavar="FILE", help="default: suite.yaml")
    init.add_argument("--force", action="store_true", help="replace FILE if it is there")
    _common(init)
    recommend = command("recommend", "say which student and method to ship, and how surely it is better")
    recommend.add_argument("suite", type=Path, metavar="SUITE")
    recommend.add_argument("--max-latency-ms", type=float, metavar="L", help="of one picture on one CPU thread")
    recommend.add_argument("--max-params", type=float, metavar="N", help="parameters of the student, e.g. 1e6")
    _common(recommend)
    listing = command("list", "list what there is")
    listing.add_argument("what", choices=["methods", "models", "datasets", "suites"])
    listing.add_argument("pattern", nargs="?", default="*", help="only names that match (* and ?)")
    listing.add_argument("--pair", nargs=2, metavar=("TEACHER", "STUDENT"),
                         help="methods: which apply to these two models, and why the others don't")  # fmt: skip
    listing.add_argument("--size", type=int, default=32, help="side of the pair's pictures (default 32)")
    listing.add_argument("--classes", type=int, default=100, help="the pair's number of classes (default 100)")
    _common(listing)
    profiling = command("profile", "measure parameters, MACs and latency of models, side by side")
    profiling.add_argument("models", nargs="+", metavar="MODEL")
    profiling.add_argument("--size", type=int, default=32, help="side of the pictures (default 32)")
    profiling.add_argument("--classes", type=int, default=100, help="number of classes (default 100)")
    _common(profiling)
    ui = command("ui", "open MLflow's pages on the right store")
    ui.add_argument("--port", type=int, default=5000)
    ui.add_argument("--host", default="127.0.0.1")
    _common(ui)
    doctor = command("doctor", "say what this machine has, what is wrong with it and how to mend that")
    _common(doctor)
    clean = command("clean", "list what lies in the results and no record needs")
    clean.add_argument("suite", type=Path, nargs="?", metavar="SUITE", help="of this suite alone; teachers stay")
    clean.add_argument("--yes", action="store_true", help="remove it")
    _common(clean)
    command("schema", "print the JSON schema of suite files, for editors").add_argument(
        "--plugin", type=Path, action="append", default=[], metavar="FILE", help="a file with methods of your own"
    )
    return top


def gigabytes(text: str) -> float:
    size = float(text)
    if not 0 <= size < float("inf"):
        raise ValueError
    return size


def _common(sub: argparse.ArgumentParser) -> None:
    environment = os.environ.get("KDBENCH_DATA", "data")
    sub.add_argument("--data", type=Path, default=Path(environment), metavar="DIR",
                     help="where data sets are (default: KDBENCH_DATA, else ./data)")  # fmt: skip
    sub.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help=f"default: ./{RESULTS}")
    sub.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    sub.add_argument("--plugin", type=Path, action="append", default=[], metavar="FILE",
                     help="a Python file with methods of your own; may be given several times")  # fmt: skip
    store = "an MLflow store (default: MLFLOW_TRACKING_URI, else a SQLite file in the results)"
    sub.add_argument("--tracking-uri", metavar="URI", help=store)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    given = parser().parse_args(arguments)
    given.words = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        with uncollected() if given.command in SHORT else nullcontext():
            return COMMANDS[given.command](given)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # `kdbench list models | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; make room and run the same command again: it goes on" if full else ""
        print(f"{error.filename or 'kdbench'}: {error.strerror or error}{hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def uncollected() -> Iterator[None]:
    """Without Python's search for cyclic garbage: it would look through all records again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def entry() -> None:
    code = main()
    if sys.argv[1:2] and sys.argv[1] in SHORT:  # all is written: unloading torch would take a second and 100 MiB
        with suppress(BrokenPipeError):
            sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _options(given: argparse.Namespace) -> Any:
    from kdbench.api import Options

    only, kept = getattr(given, "only", None), getattr(given, "keep_answers", 0.0)
    return Options(given.data, given.results, given.device, only, tuple(given.plugin), given.tracking_uri, kept)


def run(given: argparse.Namespace) -> int:
    from kdbench.api import run_suite

    outcome = run_suite(given.suite, _options(given))
    show_markdown(outcome.text)
    folder = Layout(given.results).suite(_suite_name(given))
    print(f"\nWritten to {folder.leaderboard('md')} and .csv; browse the runs with: kdbench ui")
    bad = {s: n for s, n in outcome.counts.items() if n and s in ("failed", "diverged", "missing")}
    if bad:
        print("Not all is well: " + ", ".join(f"{n} cells {s}" for s, n in bad.items()), file=sys.stderr)
    if outcome.signal is not None:
        print(f"Stopped; go on with: kdbench {shlex.join(given.words)}", file=sys.stderr)
    return outcome.exit_code


def _suite_name(given: argparse.Namespace) -> str:
    from kdbench.suite.load import read_with_bases

    return str(read_with_bases(given.suite).data["name"])


def show_markdown(text: str) -> None:
    """On a terminal wide tables are laid out by rich; elsewhere the Markdown is printed as it is."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        print(text)


def plan(given: argparse.Namespace) -> int:
    from kdbench.commands.plan import show_plan

    return show_plan(given.suite, _options(given))


def leaderboard(given: argparse.Namespace) -> int:
    from kdbench.api import make_leaderboard

    shown = {"published": given.compare_published, "reference": given.reference}
    made = make_leaderboard(given.suite, _options(given), given.also, given.from_mlflow, **shown)
    show_markdown(made[1])
    folder = Layout(given.results).suite(_suite_name(given))
    print("\nWritten: " + ", ".join(map(str, (*map(folder.leaderboard, BOARD), folder.cells("csv"), folder.plots))))
    return 0


def export(given: argparse.Namespace) -> int:
    from kdbench.commands.export import export as write

    print(write(given.key, given.format, given.output, given.results)[1])
    return 0


def init(given: argparse.Namespace) -> int:
    from kdbench.commands.init import propose

    show_markdown(propose(given.teacher, given.student, given.budget, given.output, given.force, _options(given)))
    return 0


def recommend(given: argparse.Namespace) -> int:
    from kdbench.commands.recommend import recommendation

    print(recommendation(given.suite, _options(given), given.max_latency_ms, given.max_params))
    return 0


def sync(given: argparse.Namespace) -> int:
    from kdbench.commands.sync import sync_suite

    return sync_suite(given.suite, _options(given))


def listing(given: argparse.Namespace) -> int:
    from kdbench.commands.list import show_list

    pair = (*given.pair, given.size, given.classes) if given.pair else None
    return show_list(given.what, given.pattern, _options(given), pair)


def profile(given: argparse.Namespace) -> int:
    from kdbench.commands.profile import show_profile

    return show_profile(given.models, given.size, given.classes, _options(given))


def ui(given: argparse.Namespace) -> int:
    uri = _options(given).uri
    if uri.startswith("http"):
        print(f"MLflow is a server: open {uri}")
        return 0
    page = f"http://{given.host}:{given.port}/#/experiments?workflowType=machine_learning"
    print(f"MLflow on {uri}\nopen {page}  (Ctrl-C ends it)", flush=True)
    store = ["--backend-store-uri", uri, "--host", given.host, "--port", str(given.port)]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # This process becomes the server, so that whoever ends the one ends the other.
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "server", *store], environment)


def doctor(given: argparse.Namespace) -> int:
    from kdbench.commands.doctor import examine
    from kdbench.suite.plugins import load_methods

    load_methods()
    options = _options(given)
    return examine(options.data, options.results, options.uri)


def clean(given: argparse.Namespace) -> int:
    from kdbench.results.clean import clean

    print(clean(given.results, given.yes, _suite_name(given) if given.suite else None))
    return 0


def schema(given: argparse.Namespace) -> int:
    import json

    from kdbench.suite.plugins import load_plugin
    from kdbench.suite.schema import schema

    for path in given.plugin:
        load_plugin(path)
    print(json.dumps(schema(), indent=2))
    return 0


COMMANDS = {
    "run": run, "plan": plan, "leaderboard": leaderboard, "sync": sync, "list": listing, "profile": profile,
    "ui": ui, "schema": schema, "export": export, "init": init, "recommend": recommend,
    "doctor": doctor, "clean": clean,
}  # fmt: skip
SHORT = ("plan", "leaderboard")  # they make millions of small objects, and end

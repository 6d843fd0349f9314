"""What commands read from their arguments."""

import argparse
import re

from kdbench.errors import UserError
from kdbench.grid.together import by_torchrun
from kdbench.layout import Layout, SuiteFolder
from kdbench.options import Options
from kdbench.suite.load import read_with_bases
from kdbench.suite.shipped import suite_path


def options_of(given: argparse.Namespace) -> Options:
    only, kept = getattr(given, "only", None), getattr(given, "keep_answers", 0.0)
    jobs, devices = getattr(given, "jobs", 1), getattr(given, "devices", 1)
    executor, address = getattr(given, "executor", None), getattr(given, "address", None)
    device = getattr(given, "device", "auto")  # of a command that computes nothing
    if (devices > 1 or by_torchrun()) and ((jobs or 1) > 1 or kept):
        raise UserError(
            "several devices train one cohort at a time, without a teacher cache: leave --jobs and --keep-answers out"
        )
    if executor == "ray" and (devices > 1 or kept):
        raise UserError(
            "--executor ray gives each cohort one device and keeps no cache: leave --devices and --keep-answers out"
        )
    common = given.data, given.results, device, only, tuple(given.plugin), given.tracking_uri
    return Options(*common, kept, jobs, devices, executor, address)


def folder_of(given: argparse.Namespace) -> SuiteFolder:
    """The folder of the suite's results, by the name that stands in its file."""
    return Layout(given.results).suite(str(read_with_bases(suite_path(given.suite)).data["name"]))


def seconds_of(budget: str) -> float:
    """`90s`, `30m`, `30min`, `2h`, `1h30m`, `1.5h`, `1d` -> seconds. Raises UserError for anything else."""
    units = r"(s)(?:ec(?:onds?)?)?|(m)(?:in(?:utes?)?)?|(h)(?:ours?)?|(d)(?:ays?)?"
    part = rf"\s*(\d+(?:\.\d+)?)\s*(?:{units})\s*"
    if not re.fullmatch(f"(?:{part})+", budget, re.IGNORECASE):
        raise UserError(f"--budget {budget}: say it like 30m, 2h, 1h30m or 1d")
    of_unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    seconds = 0.0
    for count, *letters in re.findall(part, budget, re.IGNORECASE):
        seconds += float(count) * of_unit["".join(letters).lower()]
    if not seconds:
        raise UserError(f"--budget {budget}: there must be some time, like 30m")
    return seconds

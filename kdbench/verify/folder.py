"""Judges a suite's folder in the results: its records against the suite as it now is, its tables, its students."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdbench.api import choose_device
from kdbench.errors import UserError
from kdbench.gathered import Gathered, board_of, gather
from kdbench.grid.cohort import Place, Worker
from kdbench.grid.events import Events
from kdbench.layout import Layout, SuiteFolder
from kdbench.options import Options
from kdbench.report.write import write_board
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.results.verified_file import note_verified
from kdbench.verify.judge import Asked, Judge
from kdbench.verify.tables import stale
from kdbench.verify.teachers import judge_teachers
from kdbench.verify.verdict import Verdict


def suite_of_folder(folder: Path) -> Path:
    """The suite file that last wrote into a folder of results. Raises UserError where that is not known."""
    place = SuiteFolder(folder)
    if not place.records.is_dir():
        raise UserError(f"{folder}: holds no records/; say a suite, its folder in the results, or a submitted archive")
    try:
        suite = folder / place.origin.read_text(encoding="utf-8")
    except OSError:
        suite = Path(f"{folder.resolve().name}.yaml")  # one that comes with kdbench
    return suite


def judge_folder(suite: Path, options: Options, asked: Asked, events: Events, **shown: Any) -> Verdict:
    """Everything in `options.results` of the suite. `shown`: as for `make_board`, as the tables were made."""
    gathered = gather(suite, options)
    place, store = Layout(options.results).suite(gathered.suite.name), Records(options.results, gathered.suite.name)
    records, cells = store.read_all(), {cell.key: cell for cell in gathered.cells}
    own = [record for record in records if record["key"] in cells]
    if not own and not store.damaged:
        raise UserError(f"{place.records}: no record of a cell of {suite}")
    device = choose_device(options.device)
    worker = Worker(Place(options.results, options.data, str(device)), events)
    judge = Judge(worker, cells, place.student, asked)
    findings = judge.findings(own)
    teachers = judge_teachers(judge, findings)
    wrong = [*store.damaged, *made_anew(gathered, records), *teachers.wrong]
    verdict = Verdict(str(place.path), findings, wrong, [teachers.said])
    tables = stale(board_of(gathered, **shown), place)
    verdict.wrong += [f"the table is not what its records say: {line}" for line in tables]
    there = [path.name for path in place.board_files() if path.parent == place.path]
    verdict.said.append(f"tables computed again from the records: {', '.join(there) or 'none is there'}")
    return verdict


def note(suite: Path, options: Options, verdict: Verdict, **shown: Any) -> None:
    """Note what was found beside the records, and write the tables, which show it."""
    gathered = gather(suite, options)
    place, store = Layout(options.results).suite(gathered.suite.name), Records(options.results, gathered.suite.name)
    note_verified(place, store.read_all(), {f.record["key"]: f.found for f in verdict.findings})
    write_board(board_of(gather(suite, options), **shown), place.path)


def made_anew(gathered: Gathered, records: Sequence[Record]) -> list[str]:
    """One line for every row that has records, but none of the cells that it has now: its key changed since."""
    now = {cell.key for cell in gathered.cells}
    have = {record["key"] for record in records}
    before: dict[tuple[Any, ...], Record] = {_row(r): r for r in records if r["key"] not in now}
    lines = {}
    for cell in gathered.cells:
        name = (cell.dataset.name, cell.teacher.short, cell.student.short, cell.label, cell.seed)
        if cell.key not in have and name in before:
            what = ", ".join(_changes(before[name]["settings"], cell.identity))
            lines[name[:-1]] = f"{' · '.join(name[:-1])}: its key changed ({what}), and it was not made anew"
    return [*lines.values()]


def _row(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("dataset", "teacher", "student", "label", "seed"))


def _changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    """Which settings are others now."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            if before.get(name) != now.get(name):
                yield from _changes(before.get(name), now.get(name), f"{where}.{name}".lstrip("."))
    elif before != now:
        yield f"{where} was {before}, is {now}"

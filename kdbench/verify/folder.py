"""Judges a suite's folder in the results: its records against the suite as it now is, its tables, its students."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdbench.api import choose_device
from kdbench.errors import UserError
from kdbench.gathered import Gathered, board_of, gather
from kdbench.grid.cohort import Place, Worker
from kdbench.grid.events import Events
from kdbench.layout import Layout, SuiteFolder
from kdbench.options import Options
from kdbench.plain import several
from kdbench.report.write import write_board
from kdbench.results.records import Records
from kdbench.results.schema import Record
from kdbench.results.seal import is_intact
from kdbench.results.verified_file import note_verified
from kdbench.suite.cells import Cell
from kdbench.verify.judge import Asked, Judge
from kdbench.verify.tables import stale
from kdbench.verify.teachers import judge_teachers
from kdbench.verify.verdict import Verdict

NAMED = 10  # cells that are told by name


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


def judge_folder(
    suite: Path, options: Options, asked: Asked, events: Events, rows: Sequence[str] = (), **shown: Any
) -> Verdict:
    """Everything in `options.results` of the suite, of which `rows` (or all) should be there.

    `shown`: as for `make_board`, as the tables were made.
    """
    gathered = gather(suite, options, recorded=True)
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
    judge.epochs(findings)
    wrong = [*store.damaged, *made_anew(gathered, records), *teachers.wrong, *other_names(own, cells)]
    said = [*absent(gathered, records, rows), *not_done(own), teachers.said]
    verdict = Verdict(str(place.path), findings, wrong, said)
    tables = stale(board_of(gathered, **shown), place)
    verdict.wrong += [f"the table is not what its records say: {line}" for line in tables]
    there = [path.name for path in place.board_files() if path.parent == place.path]
    verdict.said.append(f"tables computed again from the records: {', '.join(there) or 'none is there'}")
    return verdict


def note(suite: Path, options: Options, verdict: Verdict, **shown: Any) -> None:
    """Note what was found beside the records, and write the tables, which show it."""
    gathered = gather(suite, options, recorded=True)
    place, store = Layout(options.results).suite(gathered.suite.name), Records(options.results, gathered.suite.name)
    note_verified(place, store.read_all(), {f.record["key"]: f.found for f in verdict.findings})
    write_board(board_of(gather(suite, options, recorded=True), **shown), place.path)


def absent(gathered: Gathered, records: Sequence[Record], rows: Sequence[str] = ()) -> list[str]:
    """A line where cells of the suite have no record: a seed that displeased would be left out without a trace."""
    have = {record["key"] for record in records}
    cells = [cell for cell in gathered.cells if cell.key not in have and (not rows or cell.label in rows)]
    named = some([f"{cell.title} ({cell.key})" for cell in cells])
    return [f"NOT THERE: {several(len(cells), 'cell')} of the suite without a record: {named}"] if cells else []


def not_done(records: Sequence[Record]) -> list[str]:
    """A line with what did not end in a score, and how."""
    others = [record for record in records if record["status"] != "done"]
    told = [f"{record['label']} · seed {record['seed']} ({record['status']})" for record in others]
    return [f"without a score: {some(told)}"] if told else []


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def other_names(records: Sequence[Record], cells: Mapping[str, Cell]) -> Iterator[str]:
    """Records that were changed where no score is looked at: their seal, and what they are called."""
    for record in records:
        said, own = _row(record), cells[record["key"]]
        wanted = (own.dataset.name, own.teacher.short, own.student.short, own.label, own.seed)
        if said != wanted:
            differ = ", ".join(f"{a} instead of {b}" for a, b in zip(said, wanted, strict=True) if a != b)
            yield f"{own.title} ({record['key']}): its record is called otherwise: {differ}"
        if record["status"] != "done" and is_intact(record) is False:
            yield f"{own.title} ({record['key']}): its seal is broken: it was changed after it was written"


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

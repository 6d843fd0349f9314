"""Transforms as a suite gives them: of a student before training, of a row after it; and where a student begins.

student: {model: resnet20, from: {label: student}, transforms: [{prune: {share: 0.5}}]}
kd, int8: {ce: 0.1, kd: 0.9, then: [int8]}
"""

from collections.abc import Iterable, Iterator
from typing import Any

from kdbench.errors import Tame, first_line, unknown
from kdbench.method.contract import Inapplicable
from kdbench.method.transform import TRANSFORMS, Conversion, Reshape
from kdbench.suite.yaml_lines import Place

Step = dict[str, dict[str, Any]]  # one entry: a transform's name and every setting
KINDS = {"transforms": (Reshape, "made after training; it belongs into a row's `then`"),
         "then": (Conversion, "made before training; it belongs into a student's `transforms`")}  # fmt: skip


def steps_of(given: Iterable[Any]) -> tuple[Step, ...]:
    """Every setting filled in, and none that is off (None)."""
    return tuple(_filled(*_named(entry)) for entry in given)


def _named(entry: Any) -> tuple[str, dict[str, Any]]:
    """`prune`, `{prune: }` or `{prune: {share: 0.5}}`."""
    if isinstance(entry, str):
        return entry, {}
    [(name, settings)] = entry.items()
    return name, settings or {}


def _all_named(entry: Any) -> list[tuple[str, Any]]:
    """The same of what may be malformed."""
    return list(entry.items()) if isinstance(entry, dict) else [(str(entry), {})]


def _filled(name: str, given: dict[str, Any]) -> Step:
    settings = TRANSFORMS.settings(name, given)[0]
    return {name: {k: v for k, v in settings.items() if v is not None}}


def made(step: Step) -> Any:
    """The transform itself."""
    [(name, settings)] = step.items()
    return TRANSFORMS[name](**settings)


def check_order(steps: Iterable[Step]) -> None:
    """Raises Inapplicable for a conversion that finds nothing left to change after another one."""
    before: list[str] = []
    for step in steps:
        [name] = step
        if found := [one for one in before if one in TRANSFORMS[name].not_after]:
            raise Inapplicable(f"{name} finds nothing left to change after {found[0]}")
        before.append(name)


def names_of(steps: Iterable[Step]) -> list[str]:
    return sorted({name for step in steps for name in step})


def words(given: Iterable[Any]) -> str:
    """`prune(share=0.5), low_rank`: as they were given, for tables."""
    found = []
    for name, settings in (pair for entry in given for pair in _all_named(entry)):
        text = ", ".join(f"{k}={v}" for k, v in settings.items()) if isinstance(settings, dict) else ""
        found.append(f"{name}({text})" if text else name)
    return ", ".join(found)


def check_steps(given: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """The mistakes in a list of transforms; the last part of `place` says of which kind they must be."""
    if not isinstance(given, list) or not given:
        yield place, "must be a list of transforms: [{prune: {share: 0.5}}]"
        return
    for number, entry in enumerate(given):
        single = isinstance(entry, dict) and len(entry) == 1 and isinstance(next(iter(entry.values())), dict | None)
        if not single and not isinstance(entry, str):
            yield (*place, number), "must be a transform's name, or one name with its settings: {prune: {share: 0.5}}"
            continue
        yield from _check_step(*_named(entry), (*place, number))


def _check_step(name: str, given: dict[str, Any], place: Place) -> Iterator[tuple[Place, str]]:
    kind, otherwise = KINDS[str(place[-2])]
    fitting = [known for known in TRANSFORMS if issubclass(TRANSFORMS[known], kind)]
    if name not in TRANSFORMS:
        yield place, unknown("transform", name, fitting)
        return
    if name not in fitting:
        yield place, f"{name} is {otherwise}"
    settings, problems = TRANSFORMS.settings(name, given)
    for setting, text in problems:
        yield (*place, name, setting), text
    try:
        if not problems:
            with Tame():
                TRANSFORMS[name](**settings)
    except ValueError as error:
        yield (*place, name), str(error)
    except Exception as error:  # a plugin's, whatever it is
        yield (*place, name), f"can't be made: {first_line(error)}"


def check_starts(data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
    """`from`: the row and the pair whose trained student a pair's students begin with must be there."""
    rows = data.get("methods") if isinstance(data.get("methods"), dict) else {}
    assert isinstance(rows, dict)
    pairs = [pair for pair in data["pairs"] if isinstance(pair, dict)] if isinstance(data.get("pairs"), list) else []
    for number, pair in enumerate(pairs):
        student = pair.get("student")
        start = student.get("from") if isinstance(student, dict) else None
        if not isinstance(start, dict) or not isinstance(start.get("label"), str):
            continue
        place: Place = ("pairs", number, "student", "from")
        if start["label"] not in rows:
            yield (*place, "label"), unknown("row", start["label"], map(str, rows))
        elif isinstance(row := rows[start["label"]], dict) and row.get("then"):
            yield (*place, "label"), f"{start['label']} ends in a converted file, which can't be trained further"
        fitting = starts_of(number, pairs)
        if len(fitting) > 1:
            several = " and ".join(f"pairs[{other}]" for other in fitting)
            yield place, f"{several} both have this teacher and student: which one is meant? Leave one to another suite"
        elif not fitting:
            what = "those transforms" if start.get("transforms") else "no transforms"
            yield place, f"no other pair has this teacher and this student with {what}; add the pair to begin with"
        elif _goes_round(number, pairs):
            yield place, "begins with itself"


def start_of(number: int, pairs: list[dict[str, Any]]) -> int | None:
    """Which pair gives the students that those of pair `number` begin with; None where none does."""
    return next(iter(starts_of(number, pairs)), None)


def starts_of(number: int, pairs: list[dict[str, Any]]) -> list[int]:
    """All pairs that may; one is right. Without `transforms` the one whose students begin anew comes before others."""
    student = pairs[number]["student"]
    wanted = _student(student) | {"transforms": _steps(student["from"].get("transforms"))}
    fitting = [
        other
        for other, pair in enumerate(pairs)
        if other != number and _plain(pair) == _plain(pairs[number]) and _student(pair.get("student")) == wanted
    ]
    anew = [other for other in fitting if "from" not in pairs[other]["student"]]
    return anew if anew and not wanted["transforms"] else fitting


def _student(given: Any) -> dict[str, Any]:
    """Without what it begins with."""
    table = given if isinstance(given, dict) else {"model": given}
    rest = {k: v for k, v in table.items() if k not in ("from", "transforms")}
    return rest | {"transforms": _steps(table.get("transforms"))}


def _steps(given: Any) -> Any:
    """Equal for steps that are; what is no such list is told elsewhere."""
    try:
        return steps_of(given or ())
    except Exception:
        return given


def _plain(pair: dict[str, Any]) -> Any:
    teacher = pair.get("teacher")
    return {"model": teacher} if isinstance(teacher, str) else teacher


def _goes_round(number: int, pairs: list[dict[str, Any]]) -> bool:
    seen, here = {number}, start_of(number, pairs)
    while here is not None:
        if here in seen:
            return True
        seen.add(here)
        student = pairs[here].get("student")
        goes_on = isinstance(student, dict) and isinstance(student.get("from"), dict) and student["from"].get("label")
        here = start_of(here, pairs) if goes_on else None
    return False

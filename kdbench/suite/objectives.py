"""An objective as a suite gives it: methods with weights and settings, in one phase or several."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from kdbench.method.contract import VIEWS, Method
from kdbench.method.register import METHODS
from kdbench.method.rules import is_rule
from kdbench.suite.spec import Common, Ramp, RowOptions, mistakes, parse

# The one method that the engine knows by name: plain labels. Teachers learn from it, and gains are counted against it.
BASELINE = "ce"
BASELINES = {"classes": BASELINE, "numbers": "mse"}  # by what the targets are: see `kdbench.method.kinds`
REFERENCE = "kd"  # the label of the other row that gains are counted against

Terms = dict[
    str, dict[str, Any]
]  # method -> {"weight": w, "standardise": ..., every setting}; `teacher_norms` where given
Phase = tuple[int | None, Terms]  # for so many epochs; the last phase (usually the only one) for all that are left
ObjectiveSpec = tuple[Phase, ...]  # a row of the leaderboard
ByPair = dict[str, ObjectiveSpec]  # pattern of pairs -> what the row is there; the first that fits is taken

T = TypeVar("T")


def objective(row: dict[str, Any]) -> ObjectiveSpec:
    """A row of `methods` with every setting filled in.

    `{kd: 0.9}` or `{kd: {weight: 0.9, temperature: 4}}`, or `{phases: [{epochs: 30, fitnet: 100}, {kd: 1}]}`.
    """
    if "phases" not in row:
        return ((None, _terms(row)),)
    parts = [dict(part) for part in row["phases"]]
    return tuple((part.pop("epochs", None), _terms(part)) for part in parts)


def by_pair(row: dict[str, Any]) -> dict[str, Any]:
    """Pattern -> row, of a row of `methods` that may differ by pair.

    `{by_pair: {"cifar_vgg13 -> *": {ce: 1, dkd: {beta: 6}}, "*": {ce: 1, dkd: 1}}}`; any other row holds for all pairs.
    """
    terms = terms_of(row)
    return terms.get("by_pair", {"*": terms})


def terms_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `methods` without what is no method: `{ce: 1, kd: 1, seeds: [0, 1, 2, 3, 4], teacher: untrained}`."""
    return {name: value for name, value in row.items() if name not in RowOptions.model_fields}


def is_reference(label: str, row: dict[str, Any]) -> bool:
    """Is a row of `methods` one that all others are compared with: the student alone, or the one labelled `kd`?"""
    alone = [objective({name: 1.0}) for name in BASELINES.values()]
    return label == REFERENCE or any(objective(terms) in alone for terms in by_pair(row).values())


def for_pair(choices: Mapping[str, T], pair: str) -> T | None:
    """The first of `choices` whose pattern (* and ?) fits `pair`, `teacher -> student`; None: no run there."""
    return next((choice for pattern, choice in choices.items() if fnmatchcase(pair, pattern)), None)


def _terms(terms: dict[str, Any]) -> Terms:
    return {name: fill(name, terms[name])[0] for name in sorted(terms)}


def fill(name: str, given: Any) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Every setting of one term, the engine's own (`Common`) included, and the mistakes in it.

    A number may be a ramp over the training: `{from: 8, to: 2, curve: linear, until: 1.0}`.
    """
    table = dict(given) if isinstance(given, dict) and "from" not in given else {"weight": given}
    ramps: dict[str, dict[str, Any]] = {}
    problems = []
    for setting, value in table.items():
        if isinstance(value, dict) and "from" in value:
            wrong = list(mistakes(Ramp, value, ()))
            problems += [(setting, " ".join(filter(None, [".".join(map(str, loc)), text]))) for loc, text in wrong]
            if not wrong:
                ramps[setting] = parse(Ramp, value).model_dump(by_alias=True)
    ends = [{**table, **{setting: ramp[end] for setting, ramp in ramps.items()}} for end in ("from", "to")]
    filled: dict[str, Any] = {}
    for end in ends if ramps else ends[:1]:
        if not any(isinstance(v, dict) for v in end.values()):
            common = {k: end[k] for k in Common.model_fields if k in end}
            wrong_common = [(str(loc[0]), text) for loc, text in mistakes(Common, common, ())]
            own, wrong_settings = METHODS.settings(name, {k: v for k, v in end.items() if k not in common})
            problems += wrong_common + wrong_settings
            filled = filled or ({} if problems else {**parse(Common, common).model_dump(exclude_none=True), **own})
        elif not problems:
            bad = next(k for k, v in end.items() if isinstance(v, dict))
            problems.append((bad, "a table here must be a schedule: {from: 8, to: 2, curve: linear}"))
    if is_rule(METHODS[name]) and filled.get("weight", 1.0) != 1.0:
        problems.append(("weight", f"{name} is a rule on gradients: it has no loss, so no weight but 1"))
    if filled.get("standardise", "none") != "none" and "logits" not in METHODS[name].needs:
        problems.append(("standardise", f"{name} does not read the teacher's logits"))
    if "teacher_norms" in filled and (why := _no_batch_norms(METHODS[name])):
        problems.append(("teacher_norms", f"{name} {why}"))
    return {**filled, **ramps}, list(dict.fromkeys(problems))


def _no_batch_norms(method: type[Method]) -> str:
    """Why it can't have the teacher's outputs with batch norms in train mode; "" where it can."""
    if not method.needs:
        return "does not ask the teacher"
    if {*VIEWS, "peer"} & set(method.needs):
        return "reads the teacher's logits on other views of the batch, where its batch norms have one mode"
    if method.prepare is not Method.prepare:
        return "learns from the teacher before the training, where its batch norms have one mode"
    return ""

"""What a table's numbers mean, in words: what intervals hold for, and what the columns are."""

import json
import math
from typing import Any

from kdbench.report.gains import STUDENT
from kdbench.report.looks import Progress, State, spent
from kdbench.report.rows import Pair
from kdbench.report.statistics import ALPHA
from kdbench.report.table import Board
from kdbench.report.text import number
from kdbench.suite.controls import CONTROLS


def meaning(pair: Pair) -> list[str]:
    """Lines that stand below the table; none where nothing has an interval."""
    gains = [gain for row in pair.rows for gain in (row.gain, row.reference_gain) if gain is not None]
    if not any(gain.has_interval for gain in gains):
        return []
    return [*looks_in_words(pair), _holds_for(pair), *_pairing(pair), *_spreads(pair)]


def looks_in_words(pair: Pair) -> list[str]:
    """Where seeds were added until decided: which looks there were, where it stopped, and what each one decided."""
    if pair.looked is None:
        return []
    declared, progress = pair.looked.declared, pair.looked.progress
    looks = declared.looks
    levels = ", ".join(f"{level:.3g}" for level in spent(looks))
    made = [look for look in looks if look <= progress.seeds]
    last = len(made) == len(looks)
    where = "all were made" if last else f"stopped early, at look {len(made)} of {len(looks)}"
    lines = [
        f"Seeds were added until decided: looks at {', '.join(map(str, looks))} seeds were declared; {where} "
        f"({progress.seeds} seeds). A claim needs a corrected p below the level spent at its look ({levels}, in all "
        f"{ALPHA:g})."
    ]
    words: dict[State, str] = {"decided": "Decided", "not decidable": "Given up", "open": "Still open"}
    for state, word in words.items():
        if found := [_at(pair, *names, progress) for names in progress.among(state)]:
            lines.append(f"{word}: {'; '.join(found)}.")
    if progress.among("decided"):
        lines.append("What was decided early looks a little larger than it is.")
    return [*lines, "Groups, classes and means over pairs are not corrected for looks."]


def _at(pair: Pair, row: str, reference: str, progress: Progress) -> str:
    alone = pair.alone is not None and reference == pair.alone.label
    return f"{row} against {STUDENT if alone else reference} ({progress.standings[row, reference].seeds} seeds)"


def notes_of(pair: Pair) -> list[str]:
    """All that is to be said of how a pair's numbers came about."""
    return [*judged_in_words(pair), *controls_in_words(pair), *meaning(pair)]


def judged_in_words(pair: Pair) -> list[str]:
    """How nets were judged where not by their own logits, and which rows read no label."""
    recipes = {row.label: json.loads(row.recipe) for row in pair.done if row.recipe}
    lines = []
    if any((recipe.get("evaluate") or {}).get("probe") for recipe in recipes.values()):
        lines.append(
            "Students are judged by a linear probe: after training, a logistic regression on the embeddings of the "
            "training examples that have labels takes the place of the classifier (so there is no best epoch)."
        )
    if pair.alone is not None and pair.alone.begun_by:
        lines.append(
            f"Students begin with {pair.alone.begun_by}: {pair.alone.label} *(alone)* goes on from there on labels "
            "only, and is what gains are counted from."
        )
    if pair.done and (files := from_files(json.loads(pair.done[0].recipe or "{}").get("student"))):
        lines.append(f"Students begin with {files}, fine-tuned: none of them is trained from scratch.")
    if unread := [label for label, recipe in recipes.items() if recipe.get("labels")]:
        lines.append(f"Read no label in training: {', '.join(unread)}.")
    if any(
        (recipe.get("teacher") or {}).get("model", {}).get("num_classes") is not None for recipe in recipes.values()
    ):
        lines.append("The teacher does not know these classes: its score and agreement are those of a linear probe.")
    return lines


def from_files(student: Any) -> str:
    """What weights a student begins with, where it does not begin with random ones."""
    model = student if isinstance(student, dict) else {}
    if digest := model.get("checkpoint"):
        head = " and a new head" if model.get("head") == "new" else ""
        return f"the weights of a file (its SHA-256 begins with {str(digest)[:8]}){head}"
    return "pretrained weights" if model.get("pretrained") else ""


def controls_in_words(pair: Pair) -> list[str]:
    """Which rows have a control in the teacher's place, and what their gains are."""
    told = [
        f"{row.label} ({CONTROLS[row.control].words}, {number(row.teacher_score)}{pair.metric.unit})"
        for row in pair.done
        if row.control in CONTROLS
    ]
    if not told:
        return []
    return [
        f"Controls: {', '.join(told)}. What they gain is regularisation, no knowledge of the pair's teacher; gains "
        "over a control itself: `--reference ROW`."
    ]


def _holds_for(pair: Pair) -> str:
    if pair.num_teachers > 1:
        return (
            "Intervals hold for other seeds of student and teacher (each seed has its own teacher, "
            f"{pair.num_teachers} in all), on this split of the data and these test examples."
        )
    return (
        "Intervals hold for other seeds (start and batches of the student) with this one teacher, this split of the "
        "data and these test examples; another teacher may give another table (`teacher_train: {seed: per_seed}`)."
    )


def _pairing(pair: Pair) -> list[str]:
    """What the same start and batches take off the differences: often nothing."""
    shared = pair.standing.seed_correlation
    if math.isnan(shared):
        return []
    gained = (
        "pairing by seed takes that off every difference" if round(100 * shared) else "pairing by seed gains nothing"
    )
    return [f"Rows on the same seed have {shared:.0%} of their variance from run to run in common: {gained}."]


def _spreads(pair: Pair) -> list[str]:
    if not pair.standing.unequal:
        return []
    return [
        "**Warning.** The rows differ in how much they vary from seed to seed (Bartlett's statistic, p < 0.05): what "
        "is learnt of a row from the others fits less well, and up to 7% of such tables make a false claim, not 5%."
    ]


def legend(board: Board) -> str:
    asked = any(math.isfinite(row.scores.test_corrupted_top1) for row in board.rows)
    noted = any(row.checked for row in board.rows)
    text = (LEGEND + CORRUPTED * asked + CHECKED * noted).replace("REFERENCE", board.reference)
    return text.replace("SCORE", board.metric.title).replace("WORDS", board.metric.words)


CORRUPTED = """ *corrupted*: the mean accuracy on the test examples made worse in the ways that their data set \
states, at every strength; by kind in leaderboard.csv (`corrupted_...`)."""

CHECKED = """ *checked*: of how many cells `kdbench verify` found that the saved weights, evaluated again, give what \
is claimed, and that an epoch, trained again, ends in the recorded state."""


LEGEND = """\
**How to read it.** *SCORE*: WORDS on the test set after the last epoch, mean ± standard deviation over `n` seeds. \
*vs student*, *vs REFERENCE*: mean difference on the same seeds and its 95% interval (each by itself; none with one \
seed). ▲ better, ▼ worse, ≈ not distinguishable, at 5% over every test of the table: a step-down test of the largest \
difference; *p* is the corrected one. How much a row varies from seed to seed is learnt from all rows of the pair; \
each row's own paired t test is in leaderboard.csv (`own_t_...`). *group*: rows of group 1 are tied for the top (the \
truly best is among them in 95% of tables), those of group 2 for the top of the others, and so on. The headline's \
winner is chosen on the test examples, so its score is a little too good. *with new examples*: the 95% interval \
against the student alone for other test examples of the same kind too. \
*(alone)*: the student alone, which learns from labels only. *Seeds needed*: for 80% power at the observed difference \
and the corrected level; the observed difference is itself uncertain. *chosen*: test accuracy at the epoch chosen on \
held-out data. *best \
epoch*: the best test accuracy of any epoch, which is what much of the literature reports; it looks at the test set \
and decides nothing here. *NLL*, *ECE*: of the last epoch. *agree*: share of test examples on which student and \
teacher give the same class. *seeds agree*: the same of two students of the row. *copied*: share of the teacher's \
errors that the student makes too, with the same wrong class. *step*: one training step against the student alone's, \
without the teacher. *data*: share of a step, as it is alone, that waited for its batch. *run*: time \
of training alone on the device named above, teacher's forward included. *MiB*: the most memory of the process until \
then. *adapters*: parameters that the method adds while training. *params*, *MACs* (FLOPs = 2 x MACs), *CPU ms* (one \
example, one thread): the student's at inference."""

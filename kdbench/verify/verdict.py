"""What was found of every cell, and how it is told: claimed, weights re-evaluated, epoch replayed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kdbench.plain import doing, harmless, several
from kdbench.results.schema import Record
from kdbench.results.verified_file import EPOCH, WEIGHTS

MOST = 1000  # characters of what is told: it may quote what a stranger wrote


@dataclass
class Finding:
    """Of one cell. `wrong`: what must not be; `open`: what could not be judged, and why."""

    record: Record
    wrong: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    reevaluated: bool = False
    replayed: int = 0  # epochs, from the first one on
    drawn_of: int = 0  # the last of them was drawn among so many

    @property
    def title(self) -> str:
        record = self.record
        text = f"{record['dataset']} · {record['teacher']} -> {record['student']} · {record['label']}"
        return harmless(f"{text} · seed {record['seed']} ({record['key']})")

    @property
    def found(self) -> list[str]:
        """Which of WEIGHTS and EPOCH hold."""
        return [WEIGHTS] * self.reevaluated + [EPOCH] * bool(self.replayed)

    @property
    def epochs(self) -> int:
        """That its training has."""
        train = self.record["settings"].get("train")
        epochs = train.get("epochs") if isinstance(train, dict) else None
        return epochs if isinstance(epochs, int) else 0


@dataclass
class Verdict:
    """Of a folder or an archive. `wrong`: what is wrong with more than one cell."""

    where: str
    findings: list[Finding]
    wrong: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)  # what was looked at, and how, and what is not there

    @property
    def good(self) -> bool:
        return not self.wrong and not any(finding.wrong for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """The verdict in words."""
        findings = self.findings
        yield f"{self.where}: {several(len(findings), 'finished cell')}"
        yield from (harmless(line, 5 * MOST) for line in self.said)
        sound = [finding for finding in findings if not finding.wrong]
        yield f"claimed: {len(sound)} of {len(findings)} records fit together"
        reevaluated = sum(f.reevaluated for f in sound)
        yield f"weights re-evaluated: {doing(reevaluated, 'student', 'give')} what is claimed"
        replayed = [finding for finding in sound if finding.replayed]
        yield f"epoch replayed: {several(len(replayed), 'cell')}" + ":" * bool(replayed)
        for one in replayed:
            yield f"  {one.title}: epochs 1 to {one.replayed} of {one.epochs}, every state and curve" + among(one)
        for reason, count in Counter(reason for finding in findings for reason in finding.open).items():
            yield f"not judged, {count} cell{'s' * (count > 1)}: {harmless(reason, MOST)}"
        yield from (f"WRONG: {harmless(line, MOST)}" for line in self.wrong)
        yield from (f"WRONG: {f.title}: {harmless(line, MOST)}" for f in findings for line in f.wrong)
        yield "Nothing is wrong with it, as far as was looked." if self.good else "It does not hold."


def among(finding: Finding) -> str:
    """Where time did not allow any epoch to be drawn."""
    short = finding.drawn_of < finding.epochs
    return f" (the time allowed to draw among the first {finding.drawn_of})" if short else ""

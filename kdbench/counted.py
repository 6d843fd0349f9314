"""How many examples of each class somebody's own data hold: a look at pictures and one at texts count alike."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Counted:
    """`counts`: class -> (training, test)."""

    root: Path
    counts: dict[str, tuple[int, int]]

    @property
    def num_train(self) -> int:
        return sum(train for train, _ in self.counts.values())

    @property
    def num_test(self) -> int:
        return sum(test for _, test in self.counts.values())

    @property
    def can_hold_out(self) -> bool:
        """Is a tenth of the training examples enough for one of every class?"""
        least = min(train for train, _ in self.counts.values())
        return self.num_train // 10 >= len(self.counts) and least >= 2

    def of_classes(self, what: str, advice: str = "") -> list[str]:
        """How even the classes are, in lines. `what` they hold: pictures, texts."""
        per_class = {name: train for name, (train, _) in self.counts.items()}
        least, most = min(per_class, key=lambda n: per_class[n]), max(per_class, key=lambda n: per_class[n])
        span = f"{per_class[least]} ({least}) to {per_class[most]} ({most})"
        span = f"{per_class[least]} each" if per_class[least] == per_class[most] else span
        lines = [f"training {what} per class: {span}"]
        if per_class[most] > 5 * max(per_class[least], 1):
            lines.append(f"the classes are far from equal in size: top-1 will mostly speak of the large ones{advice}")
        if untested := [name for name, (_, test) in self.counts.items() if not test]:
            lines.append(f"without test {what}: {', '.join(untested[:5])}")
        return lines

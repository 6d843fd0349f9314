"""What the score of a task is: how records spell it, and how tables say it. Higher is better."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One score of a student on the test set, after the last epoch."""

    name: str  # as records spell it: `test_<name>`, `validation_<name>`, `teacher_<name>`
    title: str  # as a table's head and a sentence say it
    words: str  # what it is, for the legend
    unit: str = ""

    @property
    def test(self) -> str:
        """The key of the score itself, and of its curve over the epochs."""
        return f"test_{self.name}"

    @property
    def best(self) -> str:
        return f"test_{self.name}_best"

    @property
    def chosen(self) -> str:
        return f"test_{self.name}_chosen"

    @property
    def validation(self) -> str:
        return f"validation_{self.name}"

    @property
    def teacher(self) -> str:
        return f"teacher_{self.name}"

    @property
    def per_class(self) -> str:
        return f"test_{self.name}_per_class"

    @property
    def head(self) -> str:
        """`top-1 %`: the head of a column."""
        return f"{self.title} {self.unit}".rstrip()

    @property
    def axis(self) -> str:
        """`test top-1, %`: beside an axis."""
        return f"test {self.title}" + (f", {self.unit}" if self.unit else "")


TOP1 = Metric("top1", "top-1", "accuracy", "%")

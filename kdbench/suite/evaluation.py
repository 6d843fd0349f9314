"""What students are asked beyond their score: a suite's `evaluate`."""

from typing import Any, Literal

from kdbench.suite.frozen import Frozen


class Evaluate(Frozen):
    """What is off is None and not in a key; what is on is, for it decides what a record tells."""

    corruptions: Literal[True] | None = None  # accuracy on test examples that are made worse in stated ways

    @property
    def identity(self) -> dict[str, Any]:
        asked = self.model_dump(exclude_none=True)
        return {"evaluate": asked} if asked else {}


SCORE_ALONE = Evaluate()

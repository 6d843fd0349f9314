"""What students are asked beyond their score: a suite's `evaluate`."""

from typing import Any, Literal

from kdbench.suite.frozen import Count, Frozen


class Evaluate(Frozen):
    """What is off is None and not in a key; what is on is, for it decides what a record tells."""

    corruptions: Literal[True] | None = None  # accuracy on test examples that are made worse in stated ways
    # Score: a classifier fitted to the trained student's embeddings takes the place of its head (`train/probe.py`).
    probe: Literal["linear"] | None = None
    neighbours: Count | None = None  # accuracy of the votes of so many nearest training examples

    @property
    def identity(self) -> dict[str, Any]:
        asked = self.model_dump(exclude_none=True)
        return {"evaluate": asked} if asked else {}


SCORE_ALONE = Evaluate()

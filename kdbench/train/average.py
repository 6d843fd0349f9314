"""The moving average of a student's weights, which is evaluated and delivered in their place (timm's `ModelEmaV3`)."""

from typing import Any

from kdbench.suite.training import Train
from kdbench.train.arithmetic import trusted
from kdbench.train.student import Delivered


class Average:
    """Of a student as it is delivered, its running statistics too. `updates`: optimizer steps that it has seen."""

    def __init__(self, of: Delivered, decay: float, warmup: bool) -> None:
        from timm.utils import ModelEmaV3

        self.ema: Any = ModelEmaV3(of, decay=decay, use_warmup=warmup)
        self.updates = 0
        trusted(self.delivered)

    @property
    def delivered(self) -> Delivered:
        return self.ema.module

    def update(self, now: Delivered) -> None:
        """After an optimizer step; the first one takes the weights as they are."""
        self.updates += 1
        self.ema.update(now, self.updates)

    def state(self) -> dict[str, Any]:
        return {"weights": self.delivered.state_dict(), "updates": self.updates}

    def load_state(self, state: dict[str, Any]) -> None:
        self.delivered.load_state_dict(state["weights"])
        self.updates = state["updates"]


def averaged(delivered: Delivered, train: Train) -> Average | None:
    """None where the recipe has no `ema`."""
    return None if train.ema is None else Average(delivered, train.ema, bool(train.ema_warmup))

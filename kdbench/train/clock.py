"""How long the parts of a step take."""

import time
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Seconds between laps. On a GPU it does not wait for the device: laps there are the time to issue the work."""

    at: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        before, self.at = self.at, time.perf_counter()
        return self.at - before

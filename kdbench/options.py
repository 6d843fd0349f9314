"""What all commands share, and all functions of the API."""

from dataclasses import dataclass
from pathlib import Path

from kdbench.layout import RESULTS
from kdbench.results.mlflow_thread import default_uri
from kdbench.suite.cells import DATA, Only


@dataclass(frozen=True)
class Options:
    """What all commands share.

    `only`: patterns, of which a cell has to match each. `keep_answers`: how many GB of the teachers' outputs a run may
    keep on disk. `jobs`: how many processes train; None: as many as fit this machine. In another process a method must
    stand in a file: installed, or a plugin. `devices`: how many train each cohort together. `executor`: here, processes
    or ray; None: as `jobs` says. `address`: of a Ray cluster.
    """

    data: Path = DATA
    results: Path = RESULTS
    device: str = "auto"
    only: Only = None
    plugins: tuple[Path, ...] = ()
    tracking_uri: str | None = None
    keep_answers: float = 0.0
    jobs: int | None = 1
    devices: int = 1
    executor: str | None = None
    address: str | None = None

    @property
    def uri(self) -> str:
        return self.tracking_uri or default_uri(self.results)

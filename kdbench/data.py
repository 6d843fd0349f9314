"""The registry of data sets."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdbench.registry import Registry

DATASETS: Registry[Any] = Registry("data set")


def register_dataset(
    name: str, *, info: Callable[..., "DataInfo"] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that puts a function `(data_dir: Path, **settings) -> Splits` under `name`.

    `info` has the same arguments and tells the sizes without reading the pictures, so that `plan` works before the
    data are there; without it the data are read.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        function.info = info  # type: ignore[attr-defined]
        DATASETS.add(name, function, function)
        return function

    return register


@dataclass(frozen=True)
class DataInfo:
    """What shapes depend on."""

    num_classes: int
    input_size: tuple[int, int, int]
    num_train: int
    num_test: int

"""Random numbers: every stream has its own seed, derived from what it is for."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*parts: object) -> int:
    """A 63-bit seed from `parts`: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """Run the body with torch's CPU generator seeded by `parts`, then put the generator back."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive(*parts))
        yield


class RandomState:
    """torch's global random state (CPU, and the device's if it is a GPU), owned by one member of a cohort.

    Inside `with state:` the global generators continue this stream; outside they are as they were. So drop-out draws
    the same masks whether its owner trains alone or among others.
    """

    def __init__(self, device: torch.device, *parts: object) -> None:
        self.cuda = device if device.type == "cuda" else None
        with torch.random.fork_rng(devices=[device] if self.cuda else []):
            torch.manual_seed(derive(*parts))
            self.state = self._read()

    def _read(self) -> list[torch.Tensor]:
        return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(self.cuda)] if self.cuda else [])

    def _write(self, state: list[torch.Tensor]) -> None:
        torch.set_rng_state(state[0])
        if self.cuda:
            torch.cuda.set_rng_state(state[1], self.cuda)

    def __enter__(self) -> None:
        self.outside = self._read()
        self._write(self.state)

    def __exit__(self, *_: object) -> None:
        self.state = self._read()
        self._write(self.outside)

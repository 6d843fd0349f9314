"""Does somebody write into memory that is not its own? glibc's heap is watched, where there is one."""

import ctypes
import sys
from typing import Any


class Neighbours:
    """Blocks all over the heap with gaps of every size between them: what writes past the end of its memory hits some.

    With one thread the known fault gives right values, and damages the heap of whoever runs it. glibc alone is watched.
    """

    MARK, COPIES, SIZES = 0x5A, 12, range(48, 1200, 16)

    def __init__(self) -> None:
        self.libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
        self.blocks: list[tuple[int, int]] = []
        if self.libc is None or not hasattr(self.libc, "gnu_get_libc_version"):
            return
        self.libc.malloc.restype, self.libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]
        gaps = []
        for size in self.SIZES:
            for _ in range(self.COPIES):
                gaps.append(self.libc.malloc(size))
                self.blocks.append((self.libc.malloc(40), 40))
        for place, size in self.blocks:
            ctypes.memset(place, self.MARK, size)
        self.sizes = [self._header(place) for place, _ in self.blocks]
        for gap in gaps:
            self.libc.free(gap)

    def _header(self, place: int) -> int:
        """The size that the C library keeps before a block, without its flags."""
        return ctypes.c_size_t.from_address(place - ctypes.sizeof(ctypes.c_size_t)).value & ~7

    def whole(self) -> bool:
        if not self.blocks:
            return True
        mark = bytes([self.MARK])
        headers = [self._header(place) for place, _ in self.blocks]
        return headers == self.sizes and all(ctypes.string_at(p, n) == mark * n for p, n in self.blocks)

    def free(self) -> None:
        for place, _ in self.blocks:
            self.libc.free(place)

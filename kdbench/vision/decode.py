"""One picture file as 8-bit RGB, as a person sees it: upright, in its own range of values, white where it is clear.

By Pillow, which lets other threads work meanwhile. torchvision's `decode_jpeg` gives the same bits and takes 0.3 ms of
1.8 less for a JPEG of 500 x 375 that is brought to 224, but is deprecated since torchvision 0.29 and will be removed.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdbench.vision.sizing import Sized, fitted

MEGAPIXELS = 50.0  # in one picture, unless the data set says otherwise: 200 MB while it is decoded


class TooLarge(Exception):
    """A picture with more pixels than allowed; it is not decoded."""


class _OwnLimit:
    """How many are within `own_limit` just now, and Pillow's limit before."""

    lock = threading.Lock()
    inside = 0
    before: int | None = None


@contextmanager
def own_limit() -> Iterator[None]:
    """Without Pillow's limit on pixels, in all threads: `decode` has one of its own."""
    with _OwnLimit.lock:
        if not _OwnLimit.inside:
            _OwnLimit.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _OwnLimit.inside += 1
    try:
        yield
    finally:
        with _OwnLimit.lock:
            _OwnLimit.inside -= 1
            if not _OwnLimit.inside:
                Image.MAX_IMAGE_PIXELS = _OwnLimit.before


def decode(path: Path, size: int, megapixels: float | None = None) -> np.ndarray:
    """As `decoded`, of a file."""
    return decoded(path.read_bytes(), size, megapixels)


def decoded(content: bytes, size: int, megapixels: float | None = None, sized: Sized = fitted) -> np.ndarray:
    """[size, size, 3] uint8; `sized` says how it gets that size. Raises as `opened`."""
    return np.asarray(sized(opened(content, megapixels), size))


def opened(content: bytes, megapixels: float | None = None) -> Image.Image:
    """All of it, upright, 8-bit RGB. Raises TooLarge, and whatever Pillow does for what is no picture."""
    with Image.open(BytesIO(content)) as picture:
        most, has = MEGAPIXELS if megapixels is None else megapixels, picture.width * picture.height / 1e6
        if has > most:
            raise TooLarge(f"{has:.1f} megapixels; the limit is {most:g} (the data set's `max_megapixels`)")
        return as_rgb(ImageOps.exif_transpose(picture))


def as_rgb(picture: Image.Image) -> Image.Image:
    """8 bits a channel. Raises ValueError for values whose range is not known."""
    if picture.mode in ("F", "I") or picture.mode.startswith("I;"):
        return Image.fromarray(in_bytes(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        clear = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return picture.convert("RGB")


def in_bytes(values: np.ndarray) -> np.ndarray:
    """[H, W] of 0..1 (floats) or of 0..65535 (whole numbers) as uint8 0..255."""
    most = 1.0 if values.dtype.kind == "f" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= most):
        raise ValueError(f"its values lie in {low:g}..{high:g}, not in 0..{most:g}, so what is white is not known")
    return np.rint(values.astype(np.float64) * (255 / most)).astype(np.uint8)

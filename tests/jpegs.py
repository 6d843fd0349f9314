"""JPEGs as cameras and the web give them: soft shapes and some grain, each of its own size."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(number: int, longer: tuple[int, int] = (400, 640), label: int = 0) -> bytes:
    """Picture `number`, its longer side within `longer`; the hue tells its label."""
    draw = np.random.default_rng(number)
    side = int(draw.integers(*longer))
    size = (side, side * 3 // 4) if number % 3 else (side * 3 // 4, side)
    coarse = draw.integers(0, 200, (6, 6, 3), dtype=np.uint8)
    coarse[..., label % 3] |= np.uint8(55 + label % 7)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    grain = draw.integers(0, 24, (size[1], size[0], 1), dtype=np.uint8)
    kept = BytesIO()
    Image.fromarray(np.asarray(picture) // 10 * 9 + grain).save(kept, "JPEG", quality=88)
    return kept.getvalue()


def folder_of_jpegs(root: Path, train: int, test: int, classes: int = 10, longer: tuple[int, int] = (400, 640)) -> Path:
    """`root` with train/CLASS/* and val/CLASS/*; what is there already stays."""
    for part, count in (("train", train), ("val", test)):
        for number in range(count):
            path = root / part / f"class{number % classes}" / f"{number:06}.jpg"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(jpeg(number + (part == "val") * 10**6, longer, number % classes))
    return root

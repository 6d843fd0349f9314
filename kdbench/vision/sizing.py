"""How a photograph of any size becomes side x side pixels: as training pictures do, or by a net's own evaluation crop.

The crop is timm's (`transforms_imagenet_eval`), to the bit: the shorter side is resized to floor(side / share) with the
given interpolation, the middle is cut out; with `squash` each side is. Most published accuracies rest on one.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from PIL import Image, ImageOps
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from kdbench.registry import message_of

Sized = Callable[[Image.Image, int], Image.Image]  # an upright RGB picture, the side it shall have
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
FILTERS = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """The shorter side is resized, the middle cut out: all that fits."""
    return ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)


class Middle(BaseModel):
    """The evaluation crop: `share` of the shorter side (timm's `crop_pct`); with `squash` of each side."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    share: Annotated[float, Field(gt=0, le=1)]
    interpolation: Interpolation = "bicubic"
    mode: Literal["squash"] | None = None

    def scale(self, side: int) -> int:
        """What the shorter side is resized to."""
        return math.floor(side / self.share)

    def __call__(self, picture: Image.Image, side: int) -> Image.Image:
        scale, (width, height) = self.scale(side), picture.size
        short = min(width, height)
        size = (scale, scale) if self.mode else (int(scale * width / short), int(scale * height / short))
        resized = picture.resize(size, FILTERS[self.interpolation])
        left, top = (round((length - side) / 2) for length in size)
        return resized.crop((left, top, left + side, top + side))


def middle(given: dict[str, Any] | float) -> Middle:
    """Raises ValueError in words for what is none; a number is the share alone."""
    table = given if isinstance(given, dict) else {"share": given}
    try:
        return Middle.model_validate(table)
    except ValidationError as error:
        problem = error.errors()[0]
        words = message_of(problem, "entry", Middle.model_fields)
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {words}") from error


def _canonical(given: dict[str, Any] | float) -> dict[str, Any]:
    """However a suite writes it, a key has it in one form."""
    return middle(given).model_dump(exclude_none=True)


CropSetting = Annotated[dict[str, Any] | float, AfterValidator(_canonical)]


def sized_by(test_crop: dict[str, Any] | float | None) -> Sized:
    """How test pictures get their size."""
    return middle(test_crop) if test_crop else fitted


UPRIGHT = (  # as `decode.opened`
    "x = ImageOps.exif_transpose(picture); "
    "x = Image.alpha_composite(Image.new('RGBA', x.size, 'white'), x.convert('RGBA')) "
    "if x.has_transparency_data else x; "
)
WORDS = (
    "turn upright by EXIF; lay what is clear on white; to 8-bit RGB (16 bits a channel: divide by 257, round); "
    "{sized}; divide by 255. Mean and std are inside the net"
)


def prepared(size: int, test_crop: dict[str, Any] | float | None = None) -> dict[str, Any]:
    """What is done to a picture of 8 bits or 16, for whoever uses the net: in words; one of 8 bits in Pillow's."""
    about = {"size": size, "layout": "[batch, RGB, height, width]", "range": [0.0, 1.0]}
    if test_crop is None:
        pillow = f"{UPRIGHT}x = ImageOps.fit(x.convert('RGB'), ({size}, {size}), Image.BICUBIC)"
        steps = WORDS.format(sized="resize the shorter side and cut out the middle")
        return {**about, "steps": steps, "interpolation": "bicubic", "pillow": pillow}
    crop = middle(test_crop)
    scale = crop.scale(size)
    what = "each side" if crop.mode else "the shorter side"
    sized = f"resize {what} to {scale} ({crop.interpolation}); cut out the middle {size} x {size}"
    box = f"({scale}, {scale})" if crop.mode else f"[int({scale} * side / min(x.size)) for side in x.size]"
    pillow = (
        f"{UPRIGHT}x = x.convert('RGB'); x = x.resize({box}, Image.{crop.interpolation.upper()}); "
        f"left, top = [round((side - {size}) / 2) for side in x.size]; "
        f"x = x.crop((left, top, left + {size}, top + {size}))"
    )
    steps = WORDS.format(sized=sized)
    return {**about, "steps": steps, "interpolation": crop.interpolation, "crop": test_crop, "pillow": pillow}

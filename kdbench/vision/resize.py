"""Pictures brought to the size that a net is made for, inside the net."""

import torch.nn.functional as F
from torch import Tensor


def resized(images: Tensor, size: int | None) -> Tensor:
    """[B, C, H, W] -> [B, C, size, size], bicubic and antialiased; untouched where it fits, or without a size."""
    if size is None or images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)

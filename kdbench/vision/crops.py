"""Each picture of a batch cut, mirrored and erased by its own draw, all in a few calls where the batch lies.

Shapes: B batch, H x W pixels. What is drawn is drawn on the CPU, so that any device sees the same pictures.
"""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

TRIES = 10  # for a box that fits, as in torchvision and timm
ASPECT = (3 / 4, 4 / 3)
# Erased boxes: timm's shares and aspect ratios. Its noise is normal in normalised pictures: here as of ImageNet's.
ERASED, ERASED_ASPECT, NOISE = (0.02, 1 / 3), (0.3, 1 / 0.3), (0.45, 0.225)


def to_float(pixels: Tensor) -> Tensor:
    """[B, H, W, C] uint8 -> [B, 3, H, W] float in 0..1, in channels_last memory."""
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    if images.shape[1] == 3:
        return images
    return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def shifted(pixels: Tensor, shift: Tensor, flip: Tensor, pad: int) -> Tensor:
    """A batch of pixels [B, H, W, C], each with its own shift [B, 2] in 0..2 pad and flip [B]; black comes in."""
    count, height, width, _ = pixels.shape
    device = pixels.device
    rows = torch.arange(height, device=device)[None] + shift[:, :1]  # [B, H]
    columns = torch.arange(width, device=device)[None].expand(count, -1)  # [B, W]
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + shift[:, 1:]
    source = F.pad(pixels, (0, 0, pad, pad, pad, pad)) if pad else pixels
    first = torch.arange(count, device=device)[:, None, None] * source.shape[1]
    places = (first + rows[:, :, None]) * source.shape[2] + columns[:, None, :]  # among all pixels: [B, H, W]
    return source.flatten(0, 2).index_select(0, places.flatten()).view(pixels.shape)


def uniform(size: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(size, generator=generator, dtype=torch.float64) * (high - low) + low


def boxes(count: int, height: int, width: int, scale: tuple[float, float], generator: Generator) -> Tensor:
    """`RandomResizedCrop`'s boxes [B, 4] (top, left, height, width) in whole pixels, int64: a share of the area within
    `scale`, an aspect ratio within 3/4..4/3 (even in its logarithm); the first of ten that fits, else the middle.
    """
    found = _fitting(count, (height, width), scale, ASPECT, generator)
    ratio = min(max(width / height, ASPECT[0]), ASPECT[1])
    middle = torch.tensor([min(height, round(width / ratio)), min(width, round(height * ratio))])
    size = torch.where((found > 0).all(1, keepdim=True), found, middle)
    return torch.cat((_corners(size, height, width, generator), size), 1)


def _fitting(
    count: int, side: tuple[int, int], scale: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> Tensor:
    """Heights and widths [B, 2] of areas that fit into (height, width); 0 where none of ten does."""
    area = uniform((TRIES, count), *scale, generator) * side[0] * side[1]
    ratio = uniform((TRIES, count), math.log(aspect[0]), math.log(aspect[1]), generator).exp()
    sizes = torch.stack(((area / ratio).sqrt(), (area * ratio).sqrt()), -1).round().long()  # [tries, B, 2]
    fits = ((sizes > 0) & (sizes <= torch.tensor(side))).all(-1)
    first = fits.int().argmax(0)
    return sizes[first, torch.arange(count)] * fits.any(0)[:, None]


def _corners(size: Tensor, height: int, width: int, generator: Generator) -> Tensor:
    """Where boxes of that size [B, 2] lie, evenly anywhere: their upper left corners [B, 2]."""
    room = torch.tensor([height, width]) - size + 1
    return (uniform((len(size), 2), 0, 1, generator) * room).long()


def resized(pictures: Tensor, boxes: Tensor, flip: Tensor, mode: str) -> Tensor:
    """[B, 3, H, W] floats: each picture's box [B, 4] enlarged to the whole, mirrored where `flip` [B] says so.

    A box is never larger than the picture, so nothing is made smaller and no antialiasing is asked for. Past the box's
    border its neighbours in the picture count. `bicubic` is torch's (a = -0.75; Pillow has -0.5: up to 0.01 apart).
    """
    height, width = pictures.shape[-2:]
    top, left, tall, wide = boxes.to(pictures.device, torch.float32).unbind(1)
    across = torch.where(flip, -wide, wide) / width
    nothing = torch.zeros_like(top)
    rows = (across, nothing, (2 * left + wide) / width - 1), (nothing, tall / height, (2 * top + tall) / height - 1)
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(turn, list(pictures.shape), align_corners=False)
    cut = F.grid_sample(pictures, grid, mode=mode, padding_mode="reflection", align_corners=False)
    return cut.clamp_(0, 1).contiguous(memory_format=torch.channels_last)


def jittered(pictures: Tensor, strength: float, generator: Generator) -> Tensor:
    """`ColorJitter`: brightness, contrast and saturation times 1 - strength .. 1 + strength, in an order of chance."""
    count = len(pictures)
    factor = uniform((3, count, 1, 1, 1), max(0.0, 1 - strength), 1 + strength, generator).to(pictures)
    for kind in torch.randperm(3, generator=generator).tolist():
        grey = torch.zeros_like(pictures[:, :1]) if kind == 0 else luminance(pictures)
        grey = grey.mean((1, 2, 3), keepdim=True) if kind == 1 else grey
        pictures = grey.lerp(pictures, factor[kind]).clamp(0, 1)
    return pictures


def luminance(pictures: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W], ITU-R 601-2 as in torchvision's grey pictures."""
    weight = pictures.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    return (pictures * weight).sum(1, keepdim=True)


def erased(pictures: Tensor, probability: float, generator: Generator) -> Tensor:
    """`RandomErasing` (Zhong et al. 2017, https://arxiv.org/abs/1708.04896): noise in a box of some pictures."""
    count, _, height, width = pictures.shape
    chosen = torch.rand(count, generator=generator) < probability
    size = _fitting(count, (height - 1, width - 1), ERASED, ERASED_ASPECT, generator)
    corner = _corners(size, height, width, generator)
    pictures = pictures.clone()
    for place in chosen.nonzero().flatten().tolist():
        (top, left), (tall, wide) = corner[place].tolist(), size[place].tolist()
        noise = NOISE[0] + NOISE[1] * torch.randn(3, tall, wide, generator=generator)
        pictures[place, :, top : top + tall, left : left + wide] = noise.to(pictures)
    return pictures

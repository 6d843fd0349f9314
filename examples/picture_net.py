"""A net of one's own for pictures, without timm: any module that gives logits is one.

kdbench run examples/picture_net.yaml
"""

from torch import Tensor, nn

from kdbench import Task, register_net


def block(before: int, after: int) -> nn.Sequential:
    """Halves the side of the map: [B, before, H, W] -> [B, after, H/2, W/2]."""
    convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


@register_net("three_blocks")
class ThreeBlocks(nn.Module):
    """Pictures [B, 3, H, W] in 0..1 -> logits [B, K]."""

    feature_modules = ("block1", "block2", "block3")  # these give the feature maps, for methods that need them

    def __init__(self, task: Task, width: int = 16) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(3, affine=False)  # the net gets pictures as they are
        self.block1 = block(3, width)
        self.block2 = block(width, 2 * width)
        self.block3 = block(2 * width, 4 * width)
        self.head = nn.Linear(4 * width, task.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block3(self.block2(self.block1(self.normalise(images))))
        return self.head(maps.mean((2, 3)))

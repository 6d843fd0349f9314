"""The CIFAR ResNet of He et al. (2015) with parameter-free shortcuts, under the names of its public checkpoints."""

import torch.nn.functional as F
from torch import Tensor, nn

from kdbench import Task, register_net


class Block(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, after // before, 1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn1, self.bn2, self.new = nn.BatchNorm2d(after), nn.BatchNorm2d(after), (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.new, self.new)) if self.new else x))


@register_net("published_resnet")
def published_resnet(task: Task, depth: int = 20, width: int = 16) -> nn.Module:
    net, w = nn.Sequential(), width
    net.conv1, net.bn1, net.relu = nn.Conv2d(3, w, 3, 1, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU()
    for name, before, after in (("layer1", w, w), ("layer2", w, 2 * w), ("layer3", 2 * w, 4 * w)):
        net.add_module(name, nn.Sequential(*(Block(after if n else before, after) for n in range((depth - 2) // 6))))
    net.pool, net.flat, net.linear = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, task.num_classes)
    return net

"""The literature's CIFAR nets; importing this registers them into timm."""

from kdbench.vision.cifar import mobilenet, resnet, shufflenet, vgg, wrn

__all__ = ["mobilenet", "resnet", "shufflenet", "vgg", "wrn"]

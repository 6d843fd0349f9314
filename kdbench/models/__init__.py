"""Models: any timm model as a `Net` that answers with `Outputs`, and the literature's CIFAR nets."""

from kdbench.models import cifar as _cifar  # noqa: F401  (registers the CIFAR nets into timm)
from kdbench.models.net import Net, build_net, known_models

__all__ = ["Net", "build_net", "known_models"]

"""Models: any timm model as a `Net` that answers with `Outputs`, and the literature's CIFAR nets."""

# Importing them registers the CIFAR nets into timm.
from kdbench.models import cifar, cifar_mobilenet, cifar_shufflenet, cifar_vgg, cifar_wrn  # noqa: F401
from kdbench.models.net import Net, build_net, fitting_weights, known_models, read_weights

__all__ = ["Net", "build_net", "fitting_weights", "known_models", "read_weights"]

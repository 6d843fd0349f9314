"""Importing this registers the data sets of pictures, and says where their nets are found."""

from kdbench.nets import FAMILIES
from kdbench.vision import builtin, folder, hub, tars

FAMILIES["timm"] = "kdbench.vision.index:INDEX"
FAMILIES["torchvision"] = "kdbench.vision.others:TORCHVISION"
FAMILIES["transformers"] = "kdbench.vision.others:TRANSFORMERS"

__all__ = ["builtin", "folder", "hub", "tars"]

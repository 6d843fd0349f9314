"""Nets for pictures from torchvision and from transformers, beside timm's: `torchvision/resnet18`, `transformers/vit`.

A `PictureNet` is what any module becomes that gives logits for pictures: its last linear layer is the classifier.
"""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn
from torchvision import models

from kdbench.attention import ATTENTION, AttentionTap
from kdbench.errors import UserError
from kdbench.hub_cache import of_hub, of_url
from kdbench.method.contract import Outputs, Task
from kdbench.method.inputs import Inputs, map_inputs
from kdbench.nets import Net, PlainNet, Spec
from kdbench.vision.resize import resized
from kdbench.vision.taps import as_maps, over_whole_pictures

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std that torchvision's weights are made for
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class PictureNet(PlainNet):
    """A module that gives logits for normalised pictures; `size`: the side that they are resized to first."""

    def __init__(self, model: nn.Module, size: int | None = None) -> None:
        super().__init__(model)
        self.size = size
        self._attention = {need: AttentionTap(read) for need, read in ATTENTION.items()}

    def prepared(self, inputs: Inputs) -> Inputs:
        return super().prepared(map_inputs(lambda x: resized(x, self.size), inputs))

    def maps(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return as_maps(features)

    def forward(self, inputs: Any, needs: Collection[str] = ("logits",)) -> Outputs:
        """As every net; attention is that of torch's fused attention, where the model calls it."""
        wanted = [need for need in ATTENTION if need in needs]
        with ExitStack() as taps:
            for need in wanted:
                taps.enter_context(self._attention[need])
            outputs = super().forward(inputs, set(needs) - set(wanted))
        name = type(self.model).__name__
        found = {need: over_whole_pictures(self._attention[need].all(), len(inputs), name) for need in wanted}
        return replace(outputs, **found)  # type: ignore[arg-type]


class Torchvision:
    """torchvision's classifiers. `pretrained` weights are its default ones, made for ImageNet's mean and std."""

    @staticmethod
    @lru_cache
    def names() -> frozenset[str]:
        return frozenset(f"torchvision/{name}" for name in models.list_models(module=models))

    def build(self, spec: Spec, task: Task) -> Net:
        name = spec.model.removeprefix("torchvision/")
        if spec.pretrained:
            model = models.get_model(name, weights="DEFAULT", **spec.options)
            give_head(model, task.num_classes)
        else:
            model = models.get_model(name, weights=None, num_classes=task.num_classes, **spec.options)
        if not hasattr(model, "feature_modules"):
            model.feature_modules = [f"layer{i}" for i in (1, 2, 3, 4) if hasattr(model, f"layer{i}")]
        net = PictureNet(model, spec.img_size)
        net.normalise_with(*IMAGENET)
        return net

    def begins_with(self, spec: Spec) -> dict[str, str]:
        default = models.get_model_weights(spec.model.removeprefix("torchvision/")).DEFAULT
        return of_url(spec.model, default.url)


def give_head(model: nn.Module, num_classes: int) -> None:
    """A new last linear layer, where the model's gives another number of classes."""
    linear = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise UserError(f"{type(model).__name__} ends in no linear layer: it can't be given {num_classes} classes")
    name, last = linear[-1]
    if last.out_features != num_classes:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, nn.Linear(last.in_features, num_classes, last.bias is not None))


class Transformers:
    """Image classifiers of transformers, by their type. What a suite gives beside `model` are settings of its config.

    With `source`, a name on the hub, config and normalisation are those; with `pretrained: true` the weights, too.
    """

    @staticmethod
    @lru_cache
    def names() -> frozenset[str]:
        library()
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as TYPES

        return frozenset(f"transformers/{name}" for name in TYPES)

    def build(self, spec: Spec, task: Task) -> Net:
        auto, options, kind = library(), dict(spec.options), spec.model.removeprefix("transformers/")
        source = options.pop("source", None)
        if spec.pretrained and source is None:
            raise UserError(f"{spec.model}: pretrained weights need their name on the hub, as `source`")
        if spec.checkpoint and source is None and spec.normalise is None:
            raise UserError(f"{spec.model}: say how pictures are normalised for its checkpoint (`normalise`)")
        config = auto.AutoConfig.from_pretrained(source) if source else auto.AutoConfig.for_model(kind)
        if config.model_type != kind:
            raise UserError(f"{spec.model}: {source} is of another type, transformers/{config.model_type}")
        if hasattr(config, "image_size") and not source:
            options.setdefault("image_size", spec.img_size or task.inputs.shape[-1])
        config.update({**options, "num_labels": task.num_classes})
        whole = auto.AutoModelForImageClassification
        if spec.pretrained:
            model = whole.from_pretrained(source, config=config, ignore_mismatched_sizes=True)
        else:
            model = whole.from_config(config)
        net = PictureNet(model, spec.img_size or (getattr(config, "image_size", None) if source else None))
        net.normalise_with(*(normalisation_of(source) if source else HALF))
        return net

    def begins_with(self, spec: Spec) -> dict[str, str]:
        return of_hub(str(spec.options["source"])) if "source" in spec.options else {}


def normalisation_of(source: str) -> tuple[Any, Any]:
    """Mean and std of a model on the hub, as its image processor says."""
    about = library().AutoImageProcessor.from_pretrained(source)
    return about.image_mean, about.image_std


def library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("models of transformers need it installed: pip install 'kdbench[transformers]'") from error
    return transformers


TORCHVISION, TRANSFORMERS = Torchvision(), Transformers()

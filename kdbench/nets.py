"""Nets of any domain: what the engine trains, and how one is found by its name.

A net comes from a family (timm's models are one, see `vision/nets.py`), or is registered by itself:

    @register_net("mlp")
    class MLP(nn.Module):
        def __init__(self, task: Task, width: int = 32) -> None: ...
        def forward(self, x: Tensor) -> Tensor: ...   # logits [B, K]
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn

from kdbench.errors import UserError, first_line, unknown
from kdbench.method.contract import Inapplicable, Outputs, Task
from kdbench.method.inputs import Inputs, map_inputs
from kdbench.parts import Normalise, OutputTap, Tap, frozen_parts, modules_named, names_within
from kdbench.registry import Registry
from kdbench.seeding import seeded
from kdbench.weights import Chosen, load_weights

Make = TypeVar("Make", bound=Callable[..., nn.Module])


class Spec(Protocol):
    """What `build_net` reads from a suite's model."""

    model: str
    pretrained: bool
    checkpoint: str | None
    checkpoint_entry: str | None
    head: Any  # "new", or None
    img_size: int | None
    feature_modules: tuple[str, ...] | None
    freeze: tuple[str, ...] | None
    num_classes: int | None
    normalise: Any  # with `mean` and `std`, or None

    @property
    def options(self) -> dict[str, Any]: ...


class Net(nn.Module):
    """A classifier that gives `Outputs`. `model` is the module inside whose weights are saved and given to the user."""

    model: Any
    structure: list[dict[str, Any]] = []  # noqa: RUF012  (the transforms made of it, and what each decided; never written to)
    head: list[Any] = []  # its classifier; a list, so that it is no submodule a second time  # noqa: RUF012
    fields: tuple[str, ...] | None = None  # names of the inputs that it reads; None: all that there are
    frozen: tuple[nn.Module, ...] = ()  # parts that are not trained

    def train(self, mode: bool = True) -> Self:
        """As always; but frozen parts stay in eval mode: their batch norms keep their statistics."""
        super().train(mode)
        for part in self.frozen:
            part.train(False)
        return self

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take (x - mean) / std of each channel (the inputs' second dimension) from now on. Raises UserError."""
        raise UserError(f"{type(self).__name__} has a normalisation of its own; leave `normalise` out")

    def tap_features(self, names: Sequence[str]) -> None:
        """Give the outputs of these modules of `model` as its feature maps. Raises UserError."""
        raise UserError(f"{type(self).__name__} says itself what its feature maps are; leave `feature_modules` out")

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        """`needs`: which of `NEEDS` to deliver; logits always are. Raises Inapplicable for what the net lacks."""
        raise NotImplementedError

    def about(self) -> dict[str, str]:
        """What a user of the bare `model` must know, as the metadata of its file."""
        return {}


class PlainNet(Net):
    """Any module that gives logits [B, K]: its last linear layer is the classifier, what that reads the embedding.

    `model.feature_modules`, where there is one: the names of the modules that give the feature maps. What has `logits`
    of its own (a model of `transformers`) gives those.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        linear: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Linear)]
        self.head = linear[-1:]
        self.normalise: Normalise | None = None
        self._embedding, self._features = Tap(self.head), OutputTap([])
        self.tap_features(getattr(model, "feature_modules", ()))

    def normalise_with(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.normalise = Normalise(mean, std)

    def tap_features(self, names: Sequence[str]) -> None:
        self._features = OutputTap(modules_named(self.model, names))

    def about(self) -> dict[str, str]:
        return self.normalise.about() if self.normalise else {}

    def forward(self, inputs: Inputs, needs: Collection[str] = ("logits",)) -> Outputs:
        name = type(self.model).__name__
        if lacking := sorted(set(needs) - {"logits", "embedding", "features", "classifier"}):
            raise Inapplicable(f"needs {lacking[0]}; {name} gives none")
        if not self.head and {"embedding", "classifier"} & set(needs):
            raise Inapplicable(f"needs a linear classifier; {name} has no linear layer")
        with ExitStack() as taps:
            taps.enter_context(self._embedding)
            taps.enter_context(self._features)
            given = self.model(self.prepared(inputs))
        features, seen = self._features.all(), self._embedding.all()
        if "features" in needs and not features:
            raise Inapplicable(f"needs feature maps; {name} names none (`feature_modules`)")
        return Outputs(
            logits=getattr(given, "logits", given),
            embedding=seen[-1] if "embedding" in needs else None,
            features=self.maps(features) if "features" in needs else (),
            classifier=self._classifier() if "classifier" in needs else None,
        )

    def prepared(self, inputs: Inputs) -> Inputs:
        """What the model is called with."""
        return map_inputs(self.normalise, inputs) if self.normalise else inputs

    def maps(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What the feature modules gave, as methods know feature maps."""
        return features

    def _classifier(self) -> tuple[Tensor, Tensor]:
        head: Any = self.head[0]
        return head.weight, head.bias if head.bias is not None else head.weight.new_zeros(len(head.weight))


class Family(Protocol):
    """Many nets under names of their own."""

    def names(self) -> Collection[str]:
        """Each as a suite says it; a variant of its own may follow after a dot, `resnet18.a1_in1k`."""
        ...

    def build(self, spec: Spec, task: Task) -> Net:
        """In fp32 on torch's default device, initialised from torch's generator. May raise anything."""
        ...

    def begins_with(self, spec: Spec) -> dict[str, str]:
        """Of a pretrained net's weights that have a name on a hub: {name: digest}, where they are kept here."""
        ...


NETS: Registry[Any] = Registry("model")
# Name -> "module:attribute", imported when a net is asked for: timm takes seconds. The first one's models have plain
# names; those of the others begin with the family's: `torchvision/resnet18`.
FAMILIES: dict[str, str] = {}


def register_net(
    name: str,
    *,
    digest: Callable[..., str] | None = None,
    kept: Callable[..., dict[str, str]] | None = None,
    again: Callable[..., dict[str, Any]] | None = None,
) -> Callable[[Make], Make]:
    """Decorator for a class or function `(task: Task, **settings) -> nn.Module` that gives logits, or for a `Net`.

    `digest` takes the settings and gives a text that tells what the net reads from files (its first weights) from what
    it would read of others; it becomes part of every key. "": the settings say it all. `kept`: as `begins_with` of a
    `Family`, from the settings.

    `again` takes what a saved net said of itself (`Net.about`) and its settings, and gives settings by which it is
    built without the files that it first read.
    """

    def register(make: Make) -> Make:
        make.digest, make.kept, make.again = digest, kept, again  # type: ignore[attr-defined]
        NETS.add(name, make, make.__init__ if isinstance(make, type) else make)  # type: ignore[misc]
        known_models.cache_clear()
        return make

    return register


def family_of(model: str) -> Family:
    """The family that `model` belongs to by its name, whether it has such a net or not."""
    before, slash, _ = model.partition("/")
    name = before if slash and before in FAMILIES else next(iter(FAMILIES))
    module, attribute = FAMILIES[name].split(":")
    found: Family = getattr(import_module(module), attribute)
    return found


def own_crop(model: str, side: int) -> dict[str, Any] | None:
    """How examples of `side` are cut where the net's own makers judge it; None where its family says nothing.

    Raises UserError for a way that is not known here.
    """
    say = None if model in NETS else getattr(family_of(model), "own_crop", None)
    return say(model, side) if say is not None else None


def digest_of_net(name: str, options: dict[str, Any]) -> str:
    """What tells the files that a registered net starts from; "" where there are none."""
    digest = getattr(NETS[name], "digest", None) if name in NETS else None
    return digest(**options) if digest is not None else ""


def kept_weights(spec: Spec) -> dict[str, str]:
    """What a net begins with that has a name on a hub: {name: digest}; nothing where that is not kept here (yet)."""
    if spec.model in NETS:
        kept = getattr(NETS[spec.model], "kept", None)
        return dict(kept(**spec.options)) if kept is not None else {}
    return family_of(spec.model).begins_with(spec) if spec.pretrained else {}


def settled(name: str) -> bool:
    """Is it built again by what it says of itself?"""
    return name in NETS and getattr(NETS[name], "again", None) is not None


def settings_again(name: str, about: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """The settings of a registered net that was saved with `about`, without what it first read from files."""
    return NETS[name].again(about, **options) if settled(name) else options


@lru_cache
def known_models(like: str = "") -> frozenset[str]:
    """Every name that can be built of the family that `like` belongs to, and every registered one."""
    return frozenset(NETS).union(family_of(like).names())


def is_known(model: str) -> bool:
    return model in NETS or bool({model, model.split(".")[0]} & set(known_models(model)))


def unknown_model(model: str) -> str:
    """That there is no such net, and which is nearest."""
    return unknown("model", model, known_models(model))


def build_net(spec: Spec, task: Task, *seed: object, expected: str | None = None) -> Net:
    """The net of `spec` for the task, in fp32 on torch's default device, initialised from `seed`.

    `expected`: the SHA-256 of its checkpoint, where that is known. Raises UserError when it is unknown or cannot be
    built, or its weights cannot be had, are others or do not fit.
    """
    task = task if spec.num_classes is None else replace(task, num_classes=spec.num_classes)
    try:
        with seeded(*seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # a head that has no classes
            net = _build(spec, task)
    except UserError:
        raise
    except Exception as error:
        hint = "; without a network give its weights as `checkpoint:`" if spec.pretrained else ""
        raise UserError(f"model {spec.model!r} can't be built: {first_line(error)}{hint}") from error
    if spec.normalise is not None:
        net.normalise_with(spec.normalise.mean, spec.normalise.std)
    if spec.feature_modules is not None:
        net.tap_features(spec.feature_modules)
    if spec.checkpoint:
        digest = load_weights(net.model, Path(spec.checkpoint), chosen_by(net, spec))
        if expected not in (None, digest):
            raise UserError(f"checkpoint {spec.checkpoint} is another file than when the run was planned; plan it anew")
    if spec.freeze is not None:
        net.frozen = frozen_parts(net.model, net.head, spec.freeze)
        net.train(net.training)
    return net


def chosen_by(net: Net, spec: Spec) -> Chosen:
    """What the net takes of its checkpoint: not the head, where it is new, and none where it has no classes."""
    own = names_within(net.model, net.head) if spec.head or (spec.num_classes == 0 and has_weights(net.head)) else []
    return Chosen(spec.checkpoint_entry, tuple(own), beyond=spec.num_classes == 0)


def has_weights(head: Sequence[nn.Module]) -> bool:
    """A timm model without classes ends in nothing."""
    return any(part.state_dict() for part in head)


def _build(spec: Spec, task: Task) -> Net:
    if spec.model in NETS:
        made = NETS[spec.model](task, **spec.options)
        return made if isinstance(made, Net) else PlainNet(made)
    if not is_known(spec.model):
        raise UserError(unknown_model(spec.model))
    return family_of(spec.model).build(spec, task)
